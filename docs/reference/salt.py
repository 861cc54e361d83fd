# SPDX-License-Identifier: GPL-2.0-or-later
"""What Salt has of the formula: states and functions by their docstrings, SLS by their heads."""

import ast
import inspect
import re
from pathlib import Path

from reference.words import docstring, fenced, paragraphs

_TOP = Path(__file__).resolve().parents[2]
_HEAD = re.compile(r"^##\n# \S+\n# =+\n#\n(.*?)^##$", re.MULTILINE | re.DOTALL)
_SECTIONS = {
    "_states/qubes_vpn.py": "In dom0",
    "_states/qubes_vpn_vm.py": "In templates, VPN qubes and resolver qubes",
}


def states(_before):
    """All states."""
    return "\n\n".join(
        f"## {title}\n\n{_about(path)}\n\n{_functions(path)}" for path, title in _SECTIONS.items()
    )


def functions(_before):
    """All functions."""
    return _functions("_modules/qubes_vpn.py")


def sls(_before):
    """The SLS that somebody applies: those with a head."""
    written = []
    for path in sorted((_TOP / "salt").rglob("*.sls")):
        found = _HEAD.search(path.read_text(encoding="utf-8"))
        if found:
            name = ".".join(path.relative_to(_TOP / "salt").with_suffix("").parts)
            text, _, typed = found[1].partition("# Execute")
            lines = [line.removeprefix("#").removeprefix(" ") for line in text.splitlines()]
            ways = [line[2:].strip() for line in typed.splitlines() if line.startswith("#   ")]
            written.append(
                f"### {name.removesuffix('.init')}\n\n{paragraphs(lines)}"
                f"\n\n{fenced(chr(10).join(ways))}"
            )
    return "\n\n".join(written)


def _about(path):
    """What a file says of itself, but for its first line."""
    text = ast.get_docstring(ast.parse((_TOP / path).read_text(encoding="utf-8")))
    return docstring(text)


def _functions(path):
    tree = ast.parse((_TOP / path).read_text(encoding="utf-8"))
    return "\n\n".join(
        f"### {_name(tree)}.{node.name}\n\n{fenced(_signature(node), 'python')}\n\n"
        f"{docstring(inspect.cleandoc(ast.get_docstring(node)))}"
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    )


def _name(tree):
    """What Salt calls the module."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__virtualname__":
            return node.value.value
    return "qubes_vpn"


def _signature(node):
    return f"{node.name}({ast.unparse(node.args)})"
