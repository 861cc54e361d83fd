# SPDX-License-Identifier: GPL-2.0-or-later
"""What the formula puts into the template of a VPN qube: its own files, under the paths there."""

import ast

from qubes_vpn_formula.paths import formula_root

#: `{path in the qube: (text, mode)}`.
Files = dict[str, tuple[str, int]]

LIBRARY = "/usr/lib/qubes-vpn"
CLOSED = f"{LIBRARY}/closed.nft"
COMMAND = f"{LIBRARY}/killswitch"
EARLY = "/etc/systemd/system/qubes-vpn-closed.service"
OPEN = "/etc/systemd/system/qubes-vpn-open.service"
HOOK = "/etc/qubes/qubes-firewall.d/50-qubes-vpn"
UDEV = "/etc/udev/rules.d/80-qubes-vpn.rules"

_PROGRAMS = (COMMAND, HOOK)
_FILES = (CLOSED, COMMAND, EARLY, OPEN, HOOK, UDEV)


def files() -> Files:
    """The installation, complete; new at each call, so that it may be changed."""
    root = formula_root()
    found: Files = {}
    for path in _FILES:
        source = root / "salt/qubes/network/files" / path.rsplit("/", 1)[1]
        found[path] = (source.read_text("utf-8"), 0o755 if path in _PROGRAMS else 0o644)
    for name in _core():
        found[f"{LIBRARY}/{name}.py"] = ((root / f"_utils/{name}.py").read_text("utf-8"), 0o644)
    return found


def core(name: str) -> str:
    """The path of a module of the core, as the killswitch command finds it."""
    return f"{LIBRARY}/qubes_vpn_{name}.py"


def _core() -> list[str]:
    """The modules that the command imports, and those that they import."""
    found, new = set(), {"qubes_vpn_killswitch"}
    while new:
        name = new.pop()
        found.add(name)
        tree = ast.parse((formula_root() / f"_utils/{name}.py").read_bytes())
        imported = {
            module
            for node in ast.walk(tree)
            for module in (
                [one.name for one in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        new |= {module for module in imported if module.startswith("qubes_vpn_")} - found
    return sorted(found)
