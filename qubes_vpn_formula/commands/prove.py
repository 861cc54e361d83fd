# SPDX-License-Identifier: GPL-2.0-or-later
"""``qubes-vpn prove``: that no packet at all gets past a machine's rules, or which one does."""

import importlib.util
import ipaddress
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
  P2  nothing of the VPN qube's own leaves by it but to an endpoint, or to find neighbours (ARP, and
      IPv6's neighbour discovery)
  P3  no DNS packet of a client reaches another than the intended resolver
  P4  nothing from the uplink or the tunnel opens a new flow to a client
  P5  no packet of a client reaches another client
  P6  what has to work gets through
  P7  P1 to P5 hold in each rule set that there is while rules are loaded
  P8  the upstream qube lets the VPN qube open flows to its endpoints only, and a client that has
      an allowlist to what is on it only
What is refuted comes with a packet, and the rules that it meets. Send it through a real kernel:
  qubes-vpn prove pillar.sls --json >proof.json; sudo qubes-vpn lab --replay proof.json
What the model does not know is refused, never taken for harmless: docs/model.md.
With --rules a qube's own word is taken for which clients and which resolvers it has.

Needs nft, unshare, and the solver: pip install 'qubes-vpn-formula[prove]'

exit codes: 0 all is proven, 1 something is refuted or could not be proven, 2 bad input

examples:
  qubes-vpn prove pillar.sls
  qubes-vpn prove pillar.sls --page proof.html
  qubes-vpn prove pillar.sls --rules sys-vpn=ruleset.json
  qubes-vpn prove pillar.sls --rules sys-net=ruleset.json --address sys-vpn=10.137.0.7
"""
#: Bytes of a qube's rules; 50,000 endpoints are 7 MB.
_LARGEST = 64 << 20
#: JSON is not nested deeper by any nft.
_DEEPEST = 64


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
        help="what a real VPN or resolver qube, or the qube upstream of a VPN qube, has loaded, "
        "instead of what the pillar gives it: the output there of nft -j list ruleset, and in the "
        "same file, behind it, that of nft -a -t --debug=netlink list ruleset",
    )
    parser.add_argument(
        "--address",
        metavar="VPN=ADDRESS",
        action="append",
        default=[],
        help="an address of a VPN qube, by which its list is found in --rules of its upstream; "
        "once more for IPv6",
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
    addresses = _addresses(args.address)
    for text in args.rules:
        places = _collected(text, file.model, places, addresses)
    begin = time.monotonic()
    answers = list(prover.prove(places))
    if not args.json:
        for place in places:
            _show(
                place,
                [one for one in answers if (one.qube, one.stage) == (place.qube, place.stage)],
            )
    not_claimed = (*machine.not_claimed(file.model), *_not_collected(args.rules, places))
    content = report.data(args.file, answers, time.monotonic() - begin, not_claimed)
    if args.page:
        Path(args.page).write_text(report.page(content), encoding="utf-8")
    if args.json:
        say(json.dumps(content, indent=1))
    else:
        for told in not_claimed:
            say(f"not claimed: {told}")
        say(report.summary(content), "bold")
    return 0 if content["proven"] else 1


def _collected(text, model, places, addresses):
    """The places with one qube's replaced by what it has loaded."""
    from qubes_vpn_formula.prove import collect, machine
    from qubes_vpn_formula.prove.notmodelled import NotModelled

    name, equals, path = text.partition("=")
    service = model.services.get(name)
    service = None if service is None or service.role == "firewall" else service
    behind = [
        one for one in model.services.values() if one.role == "tunnel" and one.upstream == name
    ]
    if not equals or not (service or behind):
        raise UserError(
            f"'{text}' names no VPN or resolver qube of the pillar, and no qube upstream of one",
            "Write it as in --rules sys-vpn=ruleset.json.",
            key="--rules",
        )
    listed = [one for one in behind if one.name in addresses]
    if not service and not listed:
        raise UserError(
            f"which client of {name} is {behind[0].name} is not said",
            f"Add --address {behind[0].name}=ADDRESS, as 'qvm-prefs {behind[0].name} ip' says it.",
            key="--address",
        )
    try:
        document = collect.document(read_text(path, _LARGEST))
        _limited(document)
        found = [machine.collected(service, document)] if service else []
        found += [machine.collected_upstream(one, document, addresses[one.name]) for one in listed]
    except NotModelled as error:
        raise UserError(str(error), "Nothing can be said of these rules.", path) from None
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise UserError("it is not nft's JSON", "Make it by nft -j list ruleset.", path) from None
    replaced = {one.name for one in listed}
    rest = [
        one
        for one in places
        if (one.list_of not in replaced if one.list_of else not service or one.qube != name)
    ]
    return [*rest, *found]


def _not_collected(texts, places):
    """The lists that are not looked at in what their qube has loaded; a sentence each."""
    looked_at = {text.partition("=")[0] for text in texts}
    for place in places:
        if place.qube in looked_at and place.document is None:
            yield f"{place.stage} is the pillar's, not what {place.qube} has loaded."


def _limited(document):
    """Raises ValueError where it is nested deeper than any nft's."""
    level = [document]
    for _depth in range(_DEEPEST):
        level = [each for one in level if isinstance(one, dict | list) for each in _in(one)]
    if level:
        raise ValueError


def _in(one):
    return one.values() if isinstance(one, dict) else one


def _addresses(texts):
    """{VPN qube: its addresses}."""
    found = {}
    for text in texts:
        name, _equals, address = text.partition("=")
        try:
            found.setdefault(name, []).append(str(ipaddress.ip_address(address)))
        except ValueError:
            raise UserError(
                f"'{text}' names no address",
                "Write it as in --address sys-vpn=10.137.0.7.",
                key="--address",
            ) from None
    return found


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
