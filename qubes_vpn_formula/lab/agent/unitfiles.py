# SPDX-License-Identifier: GPL-2.0-or-later
"""The order in which a checkout's unit files let systemd start Qubes' services."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from qubes_vpn_formula.lab.boot import Unit, parse

_NAMES = (
    "qubes-sysinit",
    "qubes-early-vm-config",
    "qubes-mount-dirs",
    "qubes-bind-dirs",
    "qubes-antispoof",
    "qubes-iptables",
    "qubes-network-uplink@",
    "qubes-network-uplink",
    "xendriverdomain",
    "qubes-firewall",
    "qubes-network",
    "qubes-misc-post",
)


def units(source: Path) -> list[Unit]:
    """What the files in the checkout's vm-systemd/ say; the uplink's template for `eth0`.

    Raises :class:`FileNotFoundError` for a checkout that lacks one.
    """
    found = []
    for name in _NAMES:
        text = (source / "vm-systemd" / f"{name}.service").read_text(encoding="utf-8")
        unit = f"{name}eth0" if name.endswith("@") else name
        found.append(parse(f"{unit}.service", text.replace("%i", "eth0")))
    return found


def in_order_of(source: Path, restated: Iterable[Unit]) -> list[Unit]:
    """The restated units with the checkout's relations; what they do stays.

    A condition that only we have stays too, as it stands for what udev decides.  What a unit
    requires of Xen and of disks (qubes-db, home.mount) is not there to be required.
    """
    listed = list(restated)
    names = {unit.name for unit in listed}
    real = {unit.name: unit for unit in units(source)}
    return [
        replace(
            real[unit.name],
            requires=tuple(name for name in real[unit.name].requires if name in names),
            conditions=real[unit.name].conditions or unit.conditions,
            commands=unit.commands,
            action=unit.action,
        )
        if unit.name in real
        else unit
        for unit in listed
    ]
