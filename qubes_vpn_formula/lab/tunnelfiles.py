# SPDX-License-Identifier: GPL-2.0-or-later
"""The formula's own files for the tunnel in a template, as they are, at their real paths."""

import os

from qubes_vpn_formula.lab.killswitches import LIBRARY, core
from qubes_vpn_formula.paths import formula_root

_UNITS = "/etc/systemd/system"
#: Those that start with the qube.
UNITS = tuple(
    f"{_UNITS}/qubes-vpn-{name}"
    for name in ("tunnel.service", "watch.service", "follow.service", "resolv.path")
)
#: Beside the programs.
_OTHERS = (
    f"{_UNITS}/qubes-vpn-resolv.service",
    "/etc/NetworkManager/dispatcher.d/50-qubes-vpn-follow",
    "/etc/qubes/suspend-post.d/50-qubes-vpn.sh",
)


def files() -> dict[str, tuple[str, int]]:
    """Path in the template -> text and mode, beside those of the killswitch."""
    sources = formula_root() / "salt/qubes/network/files"
    found = {path: sources / path.rpartition("/")[2] for path in (*UNITS, *_OTHERS)}
    found[f"{LIBRARY}/tunnel"] = sources / "tunnel"
    modules = core("qubes_vpn_tunnel") | core("qubes_vpn_watch")
    found |= {f"{LIBRARY}/{path.name}": path for path in modules}
    return {
        path: (file.read_text(encoding="utf-8"), 0o755 if os.access(file, os.X_OK) else 0o644)
        for path, file in found.items()
    }
