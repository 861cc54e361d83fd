# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn plan``: the steps that dom0 takes for a pillar, in order, and why there."""

import json
import tempfile
from pathlib import Path

import qubes_vpn_plan
from qubes_vpn_formula import pillarfile
from qubes_vpn_formula.commands import check
from qubes_vpn_formula.commands.parser import command, json_option, machine_options
from qubes_vpn_formula.console import say

_PARTS = {"network": qubes_vpn_plan.plan, "layout": qubes_vpn_plan.layout}
_EPILOG = """\
Without a machine, all the steps are printed, whatever they would find. With one, each is tried on
a copy of it: what it changes, from what to what. The machine itself is never written to. Its
inventory is taken in dom0, and copied to the qube where this runs:
  sudo qubesctl qubes_vpn.inventory path="$PWD/inventory.json"
  sudo cat inventory.json | qvm-run --pass-io QUBE 'cat > inventory.json'

exit codes: 0 done; with a machine: 0 nothing to do, 1 something is to do or is refused;
2 the pillar has problems, or the inventory cannot be used

examples:
  qubes-vpn plan pillar.sls
  qubes-vpn plan pillar.sls --inventory inventory.json
  qubes-vpn plan pillar.sls --embedded fresh
  qubes-vpn plan --part layout --json pillar.sls
"""


def add(subparsers):
    parser = command(subparsers, "plan", "print the steps that dom0 takes for a pillar", _EPILOG)
    parser.add_argument("file", metavar="FILE", help="a pillar file (YAML)")
    machine_options(parser.add_mutually_exclusive_group())
    parser.add_argument(
        "--part",
        choices=_PARTS,
        default="network",
        help="network: qubes.network.sys-vpn (default); layout: qubes.layout",
    )
    parser.add_argument(
        "--restart-clients",
        choices=("never", "ask", "yes"),
        help="as if the pillar said so of running qubes whose connections break",
    )
    json_option(parser)
    parser.set_defaults(run=run)


def run(args):
    file = pillarfile.read(args.file)
    if file.problems():
        return check.report([args.file])
    model = file.model
    if args.restart_clients:
        model = model._replace(restart_clients=args.restart_clients)
    steps = _PARTS[args.part](model)
    if not (args.inventory or args.embedded):
        return _print_steps(steps, args.json)
    from qubes_vpn_formula import foretold  # not for every command: it loads an embedded Qubes

    with tempfile.TemporaryDirectory(prefix="qubes-vpn-plan-") as folder:
        if args.inventory:
            asked = foretold.of_inventory(args.inventory, Path(folder))
        else:
            asked = foretold.of_embedded(args.embedded, Path(folder))
        told = asked.foretell(steps)
    if args.json:
        say(json.dumps(told, indent=2))
    else:
        foretold.show(told, model)
    return 1 if foretold.is_something(told) else 0


def _print_steps(steps, as_json):
    if as_json:
        say(json.dumps([step._asdict() for step in steps], indent=2))
        return 0
    for number, step in enumerate(steps, 1):
        say(f"{number:3}. {step.id}", "bold")
        say(f"     {step.why}")
    return 0
