# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn table``: each qube of a machine, its address, its netvm, where it gets out."""

import json

import qubes_vpn_table
from qubes_vpn_formula import pillarfile
from qubes_vpn_formula.commands import check
from qubes_vpn_formula.commands.parser import command, json_option, machine_options
from qubes_vpn_formula.console import say

_EPILOG = """\
With a pillar, who is in clear by choice is known. The address that the world sees is in no
inventory: "not asked". In dom0, sudo qubesctl qubes_vpn.table ask=True has the tunnels ask.

exit codes: 0 done, 2 bad input

examples:
  qubes-vpn table --inventory inventory.json
  qubes-vpn table pillar.sls --inventory inventory.json --json
"""


def add(subparsers):
    parser = command(
        subparsers, "table", "list each qube, its address, its netvm and its exit", _EPILOG
    )
    parser.add_argument("pillar", metavar="PILLAR", nargs="?", help="a pillar file (YAML)")
    machine_options(parser.add_mutually_exclusive_group(required=True))
    json_option(parser)
    parser.set_defaults(run=run)


def run(args):
    model = None
    if args.pillar:
        file = pillarfile.read(args.pillar)
        if file.problems():
            return check.report([args.pillar])
        model = file.model
    from qubes_vpn_formula import seen  # not for every command: it loads an embedded Qubes

    with seen.machine(args.inventory, args.embedded) as asked:
        found = qubes_vpn_table.rows(seen.now(asked, model).qubes)
    say(json.dumps(found, indent=2) if args.json else qubes_vpn_table.text(found))
    return 0
