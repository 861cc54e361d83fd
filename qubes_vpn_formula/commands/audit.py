# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn audit``: every way round the VPN on a machine, by its inventory."""

import json
import tempfile
from pathlib import Path

import qubes_vpn_audit
import qubes_vpn_finding
import qubes_vpn_sarif
from qubes_vpn_formula import __version__, pillarfile
from qubes_vpn_formula import inventory as inventory_file
from qubes_vpn_formula.commands import check
from qubes_vpn_formula.commands.parser import command, machine_options
from qubes_vpn_formula.console import say

_COLOURS = {"CRITICAL": "bold red", "HIGH": "red", "MEDIUM": "yellow", "LOW": "cyan"}
_EPILOG = """\
Without a pillar, the qubes' own services say what is a VPN qube. With one, what it promises is
looked at too, and its exceptions (audit.exceptions) are applied.

exit codes: 0 nothing as bad as --fail-on; 1 something is, or a rule as bad cannot tell (NOT KNOWN);
2 the pillar has problems, or the inventory cannot be used

examples:
  qubes-vpn audit pillar.sls --inventory inventory.json
  qubes-vpn audit --inventory inventory.json --format sarif > audit.sarif
  qubes-vpn audit pillar.sls --embedded fresh --fail-on high
"""


def add(subparsers):
    summary = "find every way round the VPN on a machine"
    parser = command(subparsers, "audit", summary, _EPILOG)
    parser.add_argument("file", metavar="FILE", nargs="?", help="a pillar file (YAML)")
    machine_options(parser.add_mutually_exclusive_group(required=True))
    parser.add_argument(
        "--format", choices=("text", "json", "sarif"), default="text", help="default: text"
    )
    parser.add_argument(
        "--fail-on",
        choices=qubes_vpn_finding.SEVERITIES,
        default="low",
        help="the least severity for which the exit code is 1; default: low",
    )
    parser.set_defaults(run=run)


def run(args):
    model = None
    if args.file:
        file = pillarfile.read(args.file)
        if file.problems():
            return check.report([args.file])
        model = file.model
    report = qubes_vpn_audit.audit(_inventory(args), model)
    if args.format == "json":
        say(json.dumps(qubes_vpn_finding.data(report), indent=2))
    elif args.format == "sarif":
        rules = qubes_vpn_audit.RULES
        say(json.dumps(qubes_vpn_sarif.document(report, rules, __version__), indent=2))
    else:
        for line in qubes_vpn_finding.text(report).splitlines():
            say(line, _COLOURS.get(line.split(" ", 1)[0]))
    return qubes_vpn_finding.exit_code(report, args.fail_on)


def _inventory(args):
    if args.inventory:
        return inventory_file.read(args.inventory)
    from qubes_vpn_formula import foretold  # not for every command: it loads an embedded Qubes

    with tempfile.TemporaryDirectory(prefix="qubes-vpn-audit-") as folder:
        machine = foretold.of_embedded(args.embedded, Path(folder)).machine
        import qubes_vpn_inventory

        return qubes_vpn_inventory.take(machine, {})
