# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn prove``: that no packet at all gets past a machine's rules, or which one does."""

import importlib.util
import json
import time
from pathlib import Path

from qubes_vpn_formula import pillarfile
from qubes_vpn_formula.commands import check
from qubes_vpn_formula.commands.parser import command, json_option
from qubes_vpn_formula.console import say
from qubes_vpn_formula.errors import UserError, read_text

_EPILOG = """\
The rules of each VPN and resolver qube, and the list that the qube upstream of it enforces, are
loaded into a network namespace of their own, read back, and made a question to a solver: is there
any packet that breaks one of these?
  P1  no packet of a client leaves by the VPN qube's uplink
  P2  no packet of the VPN qube's own leaves by it, except to an endpoint
  P3  no DNS packet of a client reaches another than the intended resolver
  P4  nothing from the uplink or the tunnel opens a new flow to a client
  P5  no packet of a client reaches another client
  P6  what has to work gets through
  P7  P1 to P5 hold in each rule set that there is while rules are loaded
  P8  the upstream qube lets the VPN qube open flows to its endpoints only
What is refuted comes with a packet, and the rules that it meets. Send it through a real kernel:
  qubes-vpn prove pillar.sls --json >proof.json; sudo qubes-vpn lab --replay proof.json
What the model does not know is refused, never taken for harmless: docs/model.md.

Needs nft, unshare, and the solver: pip install 'qubes-vpn-formula[prove]'

exit codes: 0 all is proven, 1 something is refuted or could not be proven, 2 bad input

examples:
  qubes-vpn prove pillar.sls
  qubes-vpn prove pillar.sls --page proof.html
  qubes-vpn prove pillar.sls --rules sys-vpn=ruleset.json
"""
#: Bytes of a qube's rules; 50,000 endpoints are 7 MB.
_LARGEST = 64 << 20


def add(subparsers):
    parser = command(
        subparsers, "prove", "prove that a machine's rules let nothing past the VPN", _EPILOG
    )
    parser.add_argument("file", metavar="FILE", help="a pillar file (YAML)")
    parser.add_argument(
        "--rules",
        metavar="QUBE=FILE",
        action="append",
        default=[],
        help="what a real VPN or resolver qube has loaded, instead of what the pillar gives it: "
        "the output of nft -j list ruleset there",
    )
    parser.add_argument("--page", metavar="HTML", help="also write a page that explains it all")
    json_option(parser)
    parser.set_defaults(run=run)


def run(args):
    file = pillarfile.read(args.file)
    if file.problems():
        return check.report([args.file])
    if importlib.util.find_spec("z3") is None:
        raise UserError(
            "the solver is not installed", "Install it: pip install 'qubes-vpn-formula[prove]'"
        )
    # Imported here: what the proof needs, no other command does.
    from qubes_vpn_formula.prove import machine, prover, report

    places = list(machine.places(file.model))
    for text in args.rules:
        places = _collected(text, file.model, places)
    begin = time.monotonic()
    answers = list(prover.prove(places))
    if not args.json:
        for place in places:
            _show(
                place,
                [one for one in answers if (one.qube, one.stage) == (place.qube, place.stage)],
            )
    content = report.data(args.file, answers, time.monotonic() - begin)
    if args.page:
        Path(args.page).write_text(report.page(content), encoding="utf-8")
    if args.json:
        say(json.dumps(content, indent=1))
    else:
        say(report.summary(content), "bold")
    return 0 if content["proven"] else 1


def _collected(text, model, places):
    """The places with one qube's replaced by what it has loaded."""
    from qubes_vpn_formula.prove import machine

    name, equals, path = text.partition("=")
    service = model.services.get(name)
    if not equals or service is None or service.role == "firewall":
        raise UserError(
            f"'{text}' names no VPN or resolver qube of the pillar",
            "Write it as in --rules sys-vpn=ruleset.json.",
            key="--rules",
        )
    try:
        found = machine.collected(service, json.loads(read_text(path, _LARGEST)))
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise UserError("it is not nft's JSON", "Make it by nft -j list ruleset.", path) from None
    rest = [one for one in places if one.qube != name or "P8" in one.properties]
    return [*rest, found]


def _show(place, answers):
    """A line for each rule set; more for what is not proven."""
    where = f"{place.qube}: {place.stage}"
    ids = sorted({answer.property for answer in answers if answer.holds})
    if ids:
        say(f"proven   {' '.join(ids):20}  {where}")
    from qubes_vpn_formula.prove import report

    for answer in answers:
        if answer.holds:
            continue
        word = "REFUTED" if answer.holds is False else "UNKNOWN"
        say(f"{word}  {answer.property}: {answer.text} ({where})", "bold red")
        told = report.lines(answer.counterexample) if answer.counterexample else ()
        for line in (answer.trouble, *told) if answer.trouble else told:
            say(f"    {_printable(line)}")


def _printable(text):
    """A qube's own words reach a terminal without what would steer it."""
    return "".join(mark if mark.isascii() and mark.isprintable() else "?" for mark in text)
