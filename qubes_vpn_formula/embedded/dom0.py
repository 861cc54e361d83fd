# SPDX-License-Identifier: GPL-2.0-or-later
"""An embedded Qubes as dom0's code sees it, in this process."""

import os
import sys
from pathlib import Path

from qubes_vpn_formula.embedded import front

#: dom0's files on a fresh machine
FRESH = Path(__file__).parent / "fresh"


def files(path: str | os.PathLike) -> Path:
    """The folder for dom0's files of the embedded Qubes of state file `path`; it may be missing."""
    path = Path(path)
    return path.with_name(f"{path.name}.dom0")


def machine(path: str | os.PathLike, dry: bool):
    """A `qubes_vpn_machine.Machine` on the embedded Qubes of state file `path`."""
    os.environ["QUBES_VPN_EMBEDDED"] = os.fspath(path)
    if str(front.FOLDER) not in sys.path:
        sys.path.insert(0, str(front.FOLDER))
    # Both import qubesadmin, which the line above provides.
    import qubes_vpn_machine
    import qubes_vpn_qubesd

    root = FRESH if dry and not files(path).is_dir() else files(path)
    return qubes_vpn_machine.Machine(qubes_vpn_qubesd.connect(), dry=dry, root=root)
