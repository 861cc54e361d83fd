# SPDX-License-Identifier: GPL-2.0-or-later
"""The formula's own files, as they lie in this virtual machine, used as a VPN qube uses them."""

import json
import subprocess
import sys
from pathlib import Path

import chain

LIBRARY = Path("/usr/lib/qubes-vpn")
CONFIG = Path("/rw/config/vpn")
ENDPOINTS = "192.0.2.10:51820/udp\n[2001:db8:2::10]:51820/udp\n"

sys.path.insert(0, str(LIBRARY))
import qubes_vpn_killswitch  # noqa: E402
import qubes_vpn_ruleset  # noqa: E402

_DEVICES = [(chain.UPLINK, "eth0")]


def closed():
    """The text of closed.nft."""
    return (LIBRARY / "closed.nft").read_text()


def configure(endpoints=ENDPOINTS, settings="interface = wg0\n"):
    """Writes the qube's configuration; what is None is not there."""
    CONFIG.mkdir(parents=True, exist_ok=True)
    for name, text in (("endpoints.txt", endpoints), ("killswitch.conf", settings)):
        (CONFIG / name).unlink(missing_ok=True)
        if text is not None:
            (CONFIG / name).write_text(text, newline="")


def killswitch(*words):
    """Runs the command; answers with its exit code and all that it says."""
    # With the qube's own /sys, in which the command finds the devices.
    words = ["ip", "netns", "exec", "vpn", str(LIBRARY / "killswitch"), *words]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def status():
    """What the command says about itself."""
    return json.loads(killswitch("status", "--json")[1])


def boot():
    """What qubes-vpn-closed.service has done when the network comes: the closed rules, the gate."""
    chain.nft(qubes_vpn_ruleset.transaction(closed(), None, _DEVICES))


def opened():
    """What `killswitch load` gives to nft.  The command itself takes seconds in an emulation."""
    configuration = qubes_vpn_killswitch.configured()
    return qubes_vpn_ruleset.transaction(closed(), configuration, _DEVICES)


def gates():
    """The rules of the gate on the uplink alone."""
    return qubes_vpn_ruleset.gates(_DEVICES)


def without(*parts):
    """A mutant: what is open, without the lines that have one of *parts* in them."""
    lines = opened().splitlines(keepends=True)
    for part in parts:
        kept = [line for line in lines if part not in line]
        if kept == lines:
            raise chain.Failed(f"no line has {part}: the mutant is none")
        lines = kept
    return "".join(lines)


def listing():
    """The table as this version of nft shows it, without counters."""
    return chain.run("vpn", "nft", "-s", "list", "table", "inet", "qubes_vpn").stdout
