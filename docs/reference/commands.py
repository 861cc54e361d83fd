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
        top = parser()
        (commands,) = (action for action in top._actions if hasattr(action, "_name_parser_map"))
        shown = [("qubes-vpn", top), *((f"qubes-vpn {n}", p) for n, p in commands.choices.items())]
        return "\n\n".join(
            f"## {name}\n\n{fenced(each.format_help().strip())}" for name, each in shown
        )
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
