# SPDX-License-Identifier: GPL-2.0-or-later
"""The formula's own files for the tunnel in a template, as they are, at their real paths."""

import os

from qubes_vpn_formula.lab.killswitches import LIBRARY, core
from qubes_vpn_formula.paths import formula_root

UNITS = tuple(f"/etc/systemd/system/qubes-vpn-{name}.service" for name in ("tunnel", "watch"))


def files() -> dict[str, tuple[str, int]]:
    """Path in the template -> text and mode, beside those of the killswitch."""
    sources = formula_root() / "salt/qubes/network/files"
    found = {path: sources / path.rpartition("/")[2] for path in UNITS}
    found[f"{LIBRARY}/tunnel"] = sources / "tunnel"
    found["/etc/qubes/suspend-post.d/50-qubes-vpn.sh"] = sources / "50-qubes-vpn.sh"
    modules = core("qubes_vpn_tunnel") | core("qubes_vpn_watch")
    found |= {f"{LIBRARY}/{path.name}": path for path in modules}
    return {
        path: (file.read_text(encoding="utf-8"), 0o755 if os.access(file, os.X_OK) else 0o644)
        for path, file in found.items()
    }
