# SPDX-License-Identifier: GPL-2.0-or-later
"""The qrexec services of a VPN or resolver qube in its template, as they are, at their paths."""

from collections.abc import Iterable

from qubes_vpn_formula.lab.killswitches import LIBRARY, core
from qubes_vpn_formula.paths import formula_root

#: Of a VPN qube, and of a resolver qube.
TUNNEL = ("Status", "Connect", "Disconnect", "Switch", "Rules", "Drops")
RESOLVER = ("Status", "Rules", "Drops")
#: Modules that the program loads by their names.
_PARTS = {TUNNEL: ("facts_tunnel", "switching"), RESOLVER: ("facts_resolver",)}
_CALL = """\
#!/bin/sh
# By qubes-vpn-formula; only dom0 may call it.
exec {library}/service {name} "$@"
"""


def files(names: Iterable[str] = TUNNEL) -> dict[str, tuple[str, int]]:
    """Path in the template -> text and mode.  names: `TUNNEL` or `RESOLVER`."""
    names = tuple(names)
    program = formula_root() / "salt/qubes/network/files/service"
    found = {f"{LIBRARY}/service": (program.read_text(encoding="utf-8"), 0o755)}
    for name in names:
        text = _CALL.format(library=LIBRARY, name=name)
        found[f"/etc/qubes-rpc/qubes-vpn.{name}"] = (text, 0o755)
    modules = set()
    for part in ("service", *_PARTS[names]):
        modules |= core(f"qubes_vpn_{part}")
    return found | {
        f"{LIBRARY}/{path.name}": (path.read_text(encoding="utf-8"), 0o644) for path in modules
    }
