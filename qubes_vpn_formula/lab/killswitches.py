# SPDX-License-Identifier: GPL-2.0-or-later
"""What is put into a VPN qube before it boots, and attacked."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.tunnels import Tunnel
from qubes_vpn_formula.paths import formula_root

#: Where a template has what runs in a VPN qube.
LIBRARY = "/usr/lib/qubes-vpn"
_IMPORT = re.compile(r"^(?:import|from) (qubes_vpn_\w+)", re.MULTILINE)


class Killswitch(Protocol):
    """Files, and nothing else: what they do, they do because the boot, Qubes or udev runs them.

    name, title: what a report calls it, in a word and in a line.
    units: paths in the qube of the units that systemd finds there and starts.
    udev_rules: paths in the qube of its udev rules.
    """

    name: str
    title: str
    units: Sequence[str]
    udev_rules: Sequence[str]

    def install(self, qube: Qube, tunnel: Tunnel) -> None:
        """Put everything into the qube, configured for this tunnel.  Called before it boots."""


@dataclass(frozen=True)
class Absent:
    """No killswitch: what Qubes does by itself."""

    name: str = "none"
    title: str = "No killswitch: what Qubes does by itself"
    units: tuple[str, ...] = ()
    udev_rules: tuple[str, ...] = ()

    def install(self, qube: Qube, tunnel: Tunnel) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Ours:
    """The formula's own killswitch: its files as they are, at their real paths."""

    name: str = "ours"
    title: str = "The killswitch of this formula, its files as they are"
    units: tuple[str, ...] = tuple(
        f"/etc/systemd/system/qubes-vpn-{layer}.service" for layer in ("closed", "open")
    )
    udev_rules: tuple[str, ...] = ("/etc/udev/rules.d/80-qubes-vpn.rules",)

    def install(self, qube: Qube, tunnel: Tunnel) -> None:
        """The template's files, the service flag, and the configuration in /rw."""
        qube.unpack(self.files())
        qube.qubesdb["/qubes-service/qubes-vpn"] = "1"
        qube.write("/rw/config/vpn/endpoints.txt", f"{tunnel.endpoint}\n")
        qube.write("/rw/config/vpn/killswitch.conf", f"interface = {tunnel.device}\n")

    def files(self) -> dict[str, tuple[str, int]]:
        """Path in the template -> text and mode."""
        sources = formula_root() / "salt/qubes/network/files"
        places = {
            "closed.nft": f"{LIBRARY}/closed.nft",
            "killswitch": f"{LIBRARY}/killswitch",
            "dns": f"{LIBRARY}/dns",
            "qubes-vpn-closed.service": self.units[0],
            "qubes-vpn-open.service": self.units[1],
            "50-qubes-vpn": "/etc/qubes/qubes-firewall.d/50-qubes-vpn",
            "80-qubes-vpn.rules": self.udev_rules[0],
            "nftables-service.conf": "/etc/systemd/system/nftables.service.d/50-qubes-vpn.conf",
            "mullvad-services.conf": "/etc/systemd/system/mullvad-.service.d/50-qubes-vpn.conf",
        }
        found = {path: sources / name for name, path in places.items()}
        for program in ("killswitch", "follow"):
            found |= {f"{LIBRARY}/{path.name}": path for path in core(f"qubes_vpn_{program}")}
        return {
            path: (file.read_text(encoding="utf-8"), _mode(file)) for path, file in found.items()
        }


def _mode(file: Path) -> int:
    if file.name == "closed.nft":
        return 0o600  # who can read it could hold the lock on it
    return 0o755 if os.access(file, os.X_OK) else 0o644


def core(module: str) -> set[Path]:
    """The file of a module of the core, and of those that it needs."""
    found: set[Path] = set()
    wanted = [module]
    while wanted:
        file = formula_root() / "_utils" / f"{wanted.pop()}.py"
        if file not in found:
            found.add(file)
            wanted += _IMPORT.findall(file.read_text(encoding="utf-8"))
    return found
