# SPDX-License-Identifier: GPL-2.0-or-later
"""The formula's own rules for a resolver qube in its template, as they are, at their real paths."""

import os

from qubes_vpn_formula.lab.killswitches import LIBRARY, core
from qubes_vpn_formula.paths import formula_root

CLOSED = f"{LIBRARY}/dns-closed.nft"
COMMAND = f"{LIBRARY}/resolver"
UNIT = "/etc/systemd/system/qubes-vpn-dns-closed.service"
HOOK = "/etc/qubes/qubes-firewall.d/51-qubes-vpn-dns"
#: The service's flag as dom0 tells it.
FLAG = "/qubes-service/qubes-vpn-dns"


def files() -> dict[str, tuple[str, int]]:
    """Path in the template -> text and mode."""
    sources = formula_root() / "salt/qubes/network/files"
    found = {path: sources / path.rpartition("/")[2] for path in (CLOSED, COMMAND, UNIT, HOOK)}
    found |= {f"{LIBRARY}/{path.name}": path for path in core("qubes_vpn_resolver")}
    return {
        path: (file.read_text(encoding="utf-8"), _mode(path, file)) for path, file in found.items()
    }


def _mode(path: str, file: object) -> int:
    if path == CLOSED:
        return 0o600  # who can read it could hold the lock on it
    return 0o755 if os.access(file, os.X_OK) else 0o644
