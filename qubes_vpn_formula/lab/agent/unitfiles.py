# SPDX-License-Identifier: GPL-2.0-or-later
"""The order in which a checkout's unit files let systemd start Qubes' services."""

import re
from dataclasses import replace
from pathlib import Path

from qubes_vpn_formula.lab.boot import Unit, parse


def arranged(source: Path, restated: list[Unit]) -> list[Unit]:
    """The restated units with the relations of the checkout's files; what they do stays.

    Units that are not the agent's (NetworkManager, systemd's own) stay as they are.
    Raises :class:`FileNotFoundError` for a unit of the agent's that the checkout lacks.
    """
    names = {unit.name for unit in restated}
    return [_arranged(source, unit, names) for unit in restated]


def _arranged(source: Path, unit: Unit, names: set[str]) -> Unit:
    file = re.sub("@.*[.]", "@.", unit.name)
    path = source / "vm-systemd" / file
    if not unit.name.startswith("qubes-") and not path.is_file():
        return unit
    real = parse(unit.name, path.read_text(encoding="utf-8"))
    return replace(
        unit,
        after=real.after,
        before=real.before,
        # What a unit requires of Xen and of disks (qubes-db, home.mount) is not here.
        requires=tuple(name for name in real.requires if name in names),
        required_by=real.required_by,
        # A condition that only we have stands for what udev decides.
        conditions=real.conditions or unit.conditions,
        default=real.default,
    )
