# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn plan``: the steps that dom0 takes for a pillar, in order, and why there."""

import json

import qubes_vpn_plan
from qubes_vpn_formula import pillarfile
from qubes_vpn_formula.commands import check
from qubes_vpn_formula.commands.parser import command, json_option
from qubes_vpn_formula.console import say

_PARTS = {"network": qubes_vpn_plan.plan, "layout": qubes_vpn_plan.layout}
_EPILOG = """\
No machine is asked: a step that finds everything as it should be will change nothing.

exit codes: 0 done, 2 the pillar has problems

examples:
  qubes-vpn plan pillar.sls
  qubes-vpn plan --part layout --json pillar.sls
"""


def add(subparsers):
    parser = command(subparsers, "plan", "print the steps that dom0 takes for a pillar", _EPILOG)
    parser.add_argument("file", metavar="FILE", help="a pillar file (YAML)")
    parser.add_argument(
        "--part",
        choices=_PARTS,
        default="network",
        help="network: qubes.network.sys-vpn (default); layout: qubes.layout",
    )
    json_option(parser)
    parser.set_defaults(run=run)


def run(args):
    file = pillarfile.read(args.file)
    if file.problems():
        return check.report([args.file])
    steps = _PARTS[args.part](file.model)
    if args.json:
        say(json.dumps([step._asdict() for step in steps], indent=2))
        return 0
    for number, step in enumerate(steps, 1):
        say(f"{number:3}. {step.id}", "bold")
        say(f"     {step.why}")
    return 0
