# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests that a user runs on a real machine (R60 to R64): which there are, and running them.

Each is about one thing, has an id, and ends as ``passed``, ``failed``, ``not run`` (with why) or
``not asked for``.  Nothing passes that was not seen.
"""

import urllib.parse
from typing import NamedTuple

import qubes_vpn_verify_dns
import qubes_vpn_verify_qubes
import qubes_vpn_verify_tunnel
from qubes_vpn_ask import NoAnswer
from qubes_vpn_qubesd import Refused, in_words
from qubes_vpn_tests_pillar import check
from qubes_vpn_trial import FAILED, NOT_ASKED, NOT_RUN, PASSED, NotAsked, NotRun


class Test(NamedTuple):
    """One test.  id: stable, such as ``exit: sys-vpn``.  of: the qube that it is about, or None."""

    id: str
    what: str
    of: str | None


class Outcome(NamedTuple):
    """What came of a test.  lines: sentences, the worst first."""

    verdict: str
    lines: tuple


#: Of ``qubes.tests.sys-vpn`` and ``qubes.tests.sys-dns``: ``{what: (function, in words)}``.
TUNNEL = {
    "up": (qubes_vpn_verify_tunnel.up, "ask it how its tunnel and its killswitch are"),
    "exit": (qubes_vpn_verify_tunnel.exit_address, "have it and its clients ask {url}"),
    "uplink": (qubes_vpn_verify_tunnel.uplink, "have {uplink} ask {url} too, in clear"),
    "clear": (
        qubes_vpn_verify_tunnel.clear,
        "have its clients send marked packets, and listen above it",
    ),
    "killswitch": (
        qubes_vpn_verify_tunnel.killswitch,
        "take its tunnel down for a minute, and have its clients try to get out",
    ),
}
NAMES = {
    "names": (qubes_vpn_verify_dns.answered, "have its clients ask for names"),
    "capture": (
        qubes_vpn_verify_dns.captured,
        "have its clients ask for names at addresses where nobody is",
    ),
    "names-in-clear": (
        qubes_vpn_verify_dns.in_clear,
        "listen for the names that its clients ask for",
    ),
}
QUBES = {
    "vaults": (qubes_vpn_verify_qubes.vaults, "look whether vaults have a network"),
    "isolation": (
        qubes_vpn_verify_qubes.isolation,
        "have qubes that run send packets to each other, and listen",
    ),
    "tor": (qubes_vpn_verify_qubes.tor, "have the qubes behind it ask {url}"),
}


def tests(model, part):
    """The :class:`Test` of ``sys-vpn`` or ``sys-dns``, the one that takes a tunnel down last."""
    if part == "sys-dns":
        resolving = [*model.resolvers(), *(() if model.resolvers() else model.tunnels())]
        found = [Test(f"answers: {name}", "answers", name) for name in resolving]
        return found + [_test(what, name) for name in model.tunnels() for what in NAMES]
    found = [Test("wiring", "wiring", None)]
    gentle = [what for what in TUNNEL if what != "killswitch"]
    found += [_test(what, name) for name in model.tunnels() for what in gentle]
    found += [Test("vaults", "vaults", None)] if model.vaults else []
    found.append(Test("isolation", "isolation", None))
    if model.whonix != "unmanaged" or model.whonix_gateway in model.tests["checks"]:
        found.append(_test("tor", model.whonix_gateway))
    return found + [_test("killswitch", name) for name in model.tunnels()]


def _test(what, name):
    return Test(f"{what}: {name}", what, name)


def run(trial, test, last):
    """The :class:`Outcome` of *test* on a :class:`qubes_vpn_trial.Trial`.

    last: as :func:`qubes_vpn_verify_tunnel.wiring` has it.
    """
    said = []
    try:
        with in_words(f"{test.id}: dom0's qubes could not be read"):
            for one in _looks(trial, test, last):
                said.append(one)
    except NotAsked as why:
        return Outcome(NOT_ASKED, (str(why),))
    except (NotRun, NoAnswer, Refused) as why:
        said.append((NOT_RUN, str(why)))
    if not said:
        said.append((NOT_RUN, "Nothing was there to look at."))
    order = (FAILED, NOT_RUN, PASSED)
    said.sort(key=lambda one: order.index(one[0]))
    return Outcome(said[0][0], tuple(_line(verdict, text) for verdict, text in said))


def _line(verdict, text):
    mark = {PASSED: "", FAILED: "FAILED: ", NOT_RUN: "NOT RUN: "}[verdict]
    return f"{mark}{text}"


def _looks(trial, test, last):
    if test.what == "wiring":
        return qubes_vpn_verify_tunnel.wiring(trial, last)
    if test.what == "answers":
        return qubes_vpn_verify_dns.ready(trial, test.of)
    function, _ = {**TUNNEL, **NAMES, **QUBES}[test.what]
    return function(trial) if test.what in QUBES else function(trial, test.of)


def foretold(model, test):
    """What a test would do, for a dry run: it does nothing."""
    if test.what == "wiring":
        return "would compare dom0 with the pillar"
    if test.what == "answers":
        return f"would ask {test.of} how it is"
    _, words = {**TUNNEL, **NAMES, **QUBES}[test.what]
    url = check(model, test.of)["url"] if test.of else ""
    words = words.format(url=urllib.parse.urlsplit(url).netloc, uplink=model.uplink)
    return f"would {words}" if test.of is None else f"{test.of}: would {words}"


def summary(outcomes):
    """``(result, text)`` of ``{id: Outcome}``: whether all that was asked for was seen to be so."""
    lines = []
    for verdict in (PASSED, FAILED, NOT_RUN, NOT_ASKED):
        names = [name for name, outcome in outcomes.items() if outcome.verdict == verdict]
        if names:
            lines.append(f"{len(names)} {verdict}: {', '.join(names)}")
    verdicts = {outcome.verdict for outcome in outcomes.values()}
    return PASSED in verdicts and not verdicts & {FAILED, NOT_RUN}, "\n".join(lines)
