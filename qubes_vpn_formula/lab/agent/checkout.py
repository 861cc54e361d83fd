# SPDX-License-Identifier: GPL-2.0-or-later
"""A checkout of qubes-core-agent-linux, and its installation in a qube.

The environment's QUBES_SRC names a folder that holds it, or the checkout itself.  Its files go,
unchanged, where its own Makefile puts them, in the qube's private layer alone; beside them our own
stand-ins (`shims/`) for what they need of Xen, QubesDB and systemd.
"""

import os
from pathlib import Path

from qubes_vpn_formula.lab.qube import Qube

#: Modules for the scripts' Python: QubesDB, D-Bus and the agent's own.
PYTHON = "/usr/lib/qubes-lab/python"
#: A folder that stands before the others in the path of vif-route-qubes.
VIF_PATH = "/usr/lib/qubes-lab/vif"

_SHIMS = Path(__file__).with_name("shims")
_SHIM_FOLDERS = {"python": PYTHON, "bin": "/usr/bin", "xen": "/etc/xen/scripts", "vif": VIF_PATH}
_FILES = {
    "init/functions": "/usr/lib/qubes/init/functions",
    "network/80-qubes.conf": "/etc/sysctl.d/80-qubes.conf",
    "network/81-qubes.conf.optional": "/etc/sysctl.d/81-qubes.conf.optional",
    "network/qubes-antispoof.nft": "/etc/qubes/qubes-antispoof.nft",
    "network/qubes-iptables": "/usr/lib/qubes/init/qubes-iptables",
    "network/qubes-ipv4.nft": "/etc/qubes/qubes-ipv4.nft",
    "network/qubes-ipv6-disabled.nft": "/etc/qubes/qubes-ipv6-disabled.nft",
    "network/qubes-ipv6.nft": "/etc/qubes/qubes-ipv6.nft",
    "network/qubes-setup-dnat-to-ns": "/usr/lib/qubes/qubes-setup-dnat-to-ns",
    "network/setup-ip": "/usr/lib/qubes/setup-ip",
    "network/vif-qubes-nat.sh": "/etc/xen/scripts/vif-qubes-nat.sh",
    "network/vif-route-qubes": "/etc/xen/scripts/vif-route-qubes",
    "qubesagent/__init__.py": f"{PYTHON}/qubesagent/__init__.py",
    "qubesagent/firewall.py": f"{PYTHON}/qubesagent/firewall.py",
    "vm-systemd/network-proxy-setup.sh": "/usr/lib/qubes/init/network-proxy-setup.sh",
    "vm-systemd/network-proxy-stop.sh": "/usr/lib/qubes/init/network-proxy-stop.sh",
}


def find() -> Path | None:
    """The checkout that QUBES_SRC names; None where it is not set.

    Raises :class:`FileNotFoundError` where it is set and no checkout is there.
    """
    named = os.environ.get("QUBES_SRC")
    if not named:
        return None
    for name in ("qubes-core-agent-linux", "core-agent-linux", ""):
        folder = Path(named) / name
        if (folder / "qubesagent" / "firewall.py").is_file():
            return folder.resolve()
    raise FileNotFoundError(f"QUBES_SRC={named}: no checkout of qubes-core-agent-linux there")


def install(checkout: Path, qube: Qube) -> None:
    """Put the scripts and their stand-ins into a running qube.

    Raises :class:`FileNotFoundError` for a checkout that lacks a file, and
    :class:`qubes_vpn_formula.lab.qube.CommandFailed`.
    """
    places = [(checkout / name, place) for name, place in _FILES.items()]
    for folder, place in _SHIM_FOLDERS.items():
        found = (path for path in (_SHIMS / folder).rglob("*") if path.is_file())
        places += [
            (path, f"{place}/{path.relative_to(_SHIMS / folder)}")
            for path in found
            if path.suffix != ".pyc"
        ]
    # One after the other: of two with one path the last counts.
    qube.unpack({place: (path.read_bytes(), 0o755) for path, place in places})
