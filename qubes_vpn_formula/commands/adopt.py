# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn adopt``: what was changed on the machine by hand becomes what its pillar says."""

import json
import tempfile
from pathlib import Path

import qubes_vpn_plan
from qubes_vpn_formula import adopting, files, pillarfile
from qubes_vpn_formula.commands import check
from qubes_vpn_formula.commands.parser import command, inventory_option, json_option
from qubes_vpn_formula.commands.set import BOM, show_difference
from qubes_vpn_formula.console import say
from qubes_vpn_formula.errors import UserError, read_bytes

_EPILOG = """\
The other way round than a run: the pillar follows the machine. Comments, quotes and order in it
stay. Accepted are routes, the default, allowlists, and a service qube's template, label, memory
and autostart; a client in clear only with --outside. What cannot be accepted is named, with the
reason; a run puts it right. The inventory is taken as for 'qubes-vpn plan'.

exit codes: 0 done, or nothing is different; 1 something was not accepted; 2 the pillar has
problems, or the inventory cannot be used

examples:
  qubes-vpn adopt pillar.sls --inventory inventory.json --dry-run
  qubes-vpn adopt pillar.sls --inventory inventory.json --only work banking
  qubes-vpn adopt pillar.sls --inventory inventory.json --only games --outside
"""


def add(subparsers):
    parser = command(
        subparsers, "adopt", "make a pillar say what was changed on the machine by hand", _EPILOG
    )
    parser.add_argument("file", metavar="FILE", help="a pillar file (YAML)")
    inventory_option(parser, required=True)
    parser.add_argument(
        "--only",
        metavar="QUBE",
        nargs="+",
        help="accept the changes of these only; 'default_netvm' is dom0's",
    )
    parser.add_argument(
        "--outside",
        action="store_true",
        help="put clients that are in clear into outside_vpn, so that they stay so",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the difference, write nothing")
    json_option(parser)
    parser.set_defaults(run=run)


def run(args):
    file = pillarfile.read(args.file)
    if file.problems():
        return check.report([args.file])
    raw = read_bytes(args.file).decode()
    old = raw.removeprefix(BOM)
    new, told = adopting.adopt(args.file, old, _differences(args, file.model))
    if new != old and not args.dry_run:
        files.rewrite(args.file, BOM * raw.startswith(BOM) + new)
    _report(args, old, new, told)
    return 1 if any(difference.why for difference in told) else 0


def _differences(args, model):
    from qubes_vpn_formula import foretold  # not for every command: it loads an embedded Qubes

    steps = qubes_vpn_plan.plan(model)
    with tempfile.TemporaryDirectory(prefix="qubes-vpn-adopt-") as folder:
        machine = foretold.of_inventory(args.inventory, Path(folder)).machine
        for name in args.only or ():
            if name != "default_netvm" and machine.klass(name) is None:
                what = f"there is no qube '{name}'"
                raise UserError(what, "Name one that is there.", file=args.inventory)
        found = adopting.differences(model, machine, steps, args.outside)
    return [difference for difference in found if not args.only or difference.name in args.only]


def _report(args, old, new, told):
    if args.json:
        result = {
            "file": args.file,
            "accepted": [{"qube": each.name, "what": each.what} for each in told if not each.why],
            "refused": [
                {"qube": each.name, "what": each.what, "why": each.why} for each in told if each.why
            ],
            "changed": new != old,
            "written": new != old and not args.dry_run,
        }
        say(json.dumps(result, indent=2))
        return
    if not told:
        say(f"{args.file}: the machine is as it says, as far as it can say it", "green")
    show_difference(args.file, old, new)
    for difference in told:
        if difference.why:
            say(f"not accepted: {difference.name}: {difference.what}. {difference.why}", "yellow")
        else:
            say(f"accepted: {difference.name}: {difference.what}", "green")
