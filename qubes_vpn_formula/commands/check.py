# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn check``: everything that is wrong with pillar files."""

import json

from qubes_vpn_formula import pillarfile
from qubes_vpn_formula.commands.parser import command, json_option
from qubes_vpn_formula.console import say
from qubes_vpn_formula.errors import UserError
from qubes_vpn_problem import path_text

_EPILOG = """\
Prints one line for each problem, all files, all problems:
  FILE:LINE: KEY.PATH: what is wrong. What to do.
dom0 makes the same checks before it changes anything.

exit codes: 0 no problem, 2 problems

examples:
  qubes-vpn check pillar.sls
  qubes-vpn check --json machines/*.sls
"""


def add(subparsers):
    parser = command(
        subparsers, "check", "check pillar files and say what is wrong, all at once", _EPILOG
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="a pillar file (YAML)")
    json_option(parser)
    parser.set_defaults(run=run)


def run(args):
    return report(args.files, args.json)


def report(paths, as_json=False):
    """Prints every problem of the pillar files *paths*; returns the exit code."""
    found = [line for path in paths for line in _problems(path)]
    if as_json:
        say(json.dumps(found, indent=2))
        return 2 if found else 0
    for line in found:
        say(line["text"], "red")
    bad = {line["file"] for line in found}
    for path in paths:
        if path not in bad:
            say(f"{path}: no problem", "green")
    return 2 if found else 0


def _problems(path):
    """The problems of one file, as JSON has them."""
    try:
        located = pillarfile.read(path).problems()
    except UserError as error:
        return [_line(path, error.line, error.key, error.what, error.fix, str(error))]
    return [
        _line(
            path,
            line,
            path_text(problem.path),
            problem.what,
            problem.fix,
            problem.text(f"{path}:{line}"),
        )
        for line, problem in located
    ]


def _line(path, line, key, what, fix, text):
    return {"file": path, "line": line, "key": key, "what": what, "fix": fix, "text": text}
