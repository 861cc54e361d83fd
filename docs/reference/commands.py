# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line, in its own words."""

import os

from qubes_vpn_formula.cli import parser
from reference.words import fenced

_COLUMNS = "110"


def write(_before):
    """The help of the program and of each command."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _COLUMNS  # which argparse asks for
    try:
        return "\n\n".join(
            f"## {name}\n\n{fenced(each.format_help().strip())}"
            for name, each in _with_commands("qubes-vpn", parser())
        )
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def _with_commands(name, parser):
    """(name, parser), and those of its commands, and of theirs."""
    yield name, parser
    for action in parser._actions:
        if hasattr(action, "_name_parser_map"):
            for each, below in action.choices.items():
                yield from _with_commands(f"{name} {each}", below)
