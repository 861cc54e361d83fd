# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults in when and how the rules are loaded, and in what is done when they cannot be."""

from qubes_vpn_formula.lab.mutants.edits import Files, add, drop, swap, wrap
from qubes_vpn_formula.lab.mutants.mutant import mutant
from qubes_vpn_formula.lab.mutants.paths import (
    EARLY,
    HOOK,
    LIBRARY,
    MULLVAD,
    NFTABLES,
    OPEN,
    UDEV,
)

_RW = "/rw/config/vpn/lib"
# What the well-known guide does, in place of a table of our own.
_IN_QUBES_CHAINS = """#!/bin/sh
nft add rule ip qubes custom-forward oifgroup 1 counter drop
nft add rule ip6 qubes custom-forward oifgroup 1 counter drop
"""


def _to_rw(files: Files) -> None:
    for path in [path for path in files if path.startswith(f"{LIBRARY}/")]:
        files[path.replace(LIBRARY, _RW)] = files.pop(path)


def _hook(path: str) -> tuple[str, str, int]:
    return path, f"#!/bin/sh\nexec {_RW}/killswitch load\n", 0o755


_TIME = [
    mutant(
        "no-early-unit",
        "only qubes-firewall's hook loads anything",
        drop(EARLY, OPEN, UDEV),
        "B01 B02 B03 B05 B11",
    ),
    mutant(
        "early-unit-too-late",
        "the closed rules come after the network",
        [
            swap(EARLY, "\nBefore=", "\nAfter=network.target\n#"),
            swap(EARLY, "\nRequiredBy=", "\n#"),
            swap(EARLY, "WantedBy=sysinit.target", "WantedBy=multi-user.target"),
            swap(EARLY, "DefaultDependencies=no\n", ""),
            swap(OPEN, "\nBefore=", "\n#"),
            drop(UDEV),  # its gate closes the uplink by itself
        ],
        "B11",
    ),
    mutant(
        "not-required",
        "the network starts also when the closed rules failed",
        swap(EARLY, "\nRequiredBy=", "\n#"),
        "L03",
    ),
    mutant(
        "rw-only",
        "everything lies below /rw, the template has nothing",
        [
            drop(EARLY, OPEN, UDEV, HOOK, NFTABLES, MULLVAD),
            _to_rw,
            add(*_hook("/rw/config/qubes-firewall.d/50-qubes-vpn")),
        ],
        "B03 B05 B08 B09",
    ),
    mutant(
        "rc-local",
        "rc.local loads it, when the network is up",
        [
            drop(EARLY, OPEN, UDEV, HOOK, NFTABLES, MULLVAD),
            _to_rw,
            add(*_hook("/rw/config/rc.local")),
        ],
        "B01 B02 K03",
    ),
    mutant(
        "in-qubes-chains",
        "the rules are added to Qubes' own chains",
        [drop(EARLY, OPEN, UDEV), add(HOOK, _IN_QUBES_CHAINS, 0o755)],
        "B10 K01",
    ),
    mutant("no-hook", "a restart of qubes-firewall loads nothing again", drop(HOOK), "K05"),
    mutant(
        "opens-on-stop",
        "stopping the unit takes the rules away",
        swap(
            EARLY,
            "[Service]\n",
            "[Service]\n"
            "ExecStop=-/usr/sbin/nft delete table netdev qubes_vpn\n"
            "ExecStop=-/usr/sbin/nft delete table inet qubes_vpn\n",
        ),
        "B12",
    ),
]

_LOADING = [
    mutant(
        "recreate",
        "a load deletes the tables first",
        wrap("recreate"),
        "B06 K04 I07 L01 L02 L05 L07",
    ),
    mutant(
        "rule-by-rule",
        "a load is one call of nft for each rule, the policy is accept meanwhile",
        wrap("rule-by-rule"),
        "B06 L01 L02",
    ),
    mutant(
        "open-on-error",
        "what cannot be loaded is opened, so that the network works",
        wrap("open-on-error"),
        "B09 I01 I04 I05 I08 L03 L04",
    ),
    mutant(
        "keeps-old-on-error",
        "what cannot be loaded leaves what was open before",
        wrap("keep-old"),
        "I01 I04 I05 I08",
    ),
    mutant(
        "unchecked-input",
        "lines of endpoints.txt go to nft as they are",
        wrap("unchecked"),
        "I02 I03",
    ),
]

MUTANTS = [*_TIME, *_LOADING]
