# SPDX-License-Identifier: GPL-2.0-or-later
"""Proves the properties of a machine's places, one claim after the other."""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import z3

from qubes_vpn_formula.prove import collect, counterexample, nftjson
from qubes_vpn_formula.prove.endpoints import Endpoints
from qubes_vpn_formula.prove.machine import Place
from qubes_vpn_formula.prove.notmodelled import NotModelled
from qubes_vpn_formula.prove.properties import Claim, Question, claims
from qubes_vpn_formula.prove.ruleset import Ruleset
from qubes_vpn_formula.prove.sources import Lines, lines

#: Seconds that the solver may think about one claim, and about all that is claimed of a place.
_PATIENCE, _PATIENCE_WITH_PLACE = 60, 300


@dataclass(frozen=True)
class Answer:
    """What became of one claim at one place.

    holds: proven, or refuted; None when it could not be decided, with the reason in *trouble*.
    counterexample: as :func:`counterexample.of` makes it.  seconds: how long it took.
    """

    property: str
    text: str
    qube: str
    stage: str
    holds: bool | None
    counterexample: dict[str, Any] | None = None
    trouble: str = ""
    seconds: float = 0.0


def prove(places: Sequence[Place]) -> Iterator[Answer]:
    """Every claim of every place, in order; places are looked at side by side."""
    jobs = min(len(places), os.cpu_count() or 1)
    if jobs < 2:
        for place in places:
            yield from _answers(place)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for answers in pool.map(_answers, places):
            yield from answers


def _answers(place: Place) -> list[Answer]:
    answers = []
    try:
        for answer in prove_place(place, ruleset(place), lines(place.parts)):
            answers.append(answer)  # those before an exception count
        return answers
    except NotModelled as error:
        trouble = str(error)
    except Exception:
        if place.document is None:
            raise
        # A qube may send anything.
        trouble = "it is not what nft -j list ruleset says"
    text = "what else is claimed of these rules"
    return [*answers, Answer("", text, place.qube, place.stage, None, None, trouble)]


def ruleset(place: Place) -> Ruleset:
    """What nft and the kernel make of a place's text."""
    if place.document is not None:
        return nftjson.read(place.document)
    links = [collect.Link(name, 1) for name in place.devices]
    found = nftjson.read(collect.listing([part.text for part in place.parts], links))
    return derived(found, place.without)


def prove_place(place: Place, found: Ruleset, known: Lines) -> Iterator[Answer]:
    """The claims of one place, whose rule set is *found*.  Raises NotModelled."""
    endpoints = Endpoints(place.facts.endpoints, found, not place.list_of)
    question = Question(found, place.facts, endpoints.term, endpoints.open_sets)
    until = time.monotonic() + _PATIENCE_WITH_PLACE
    for id in place.properties:
        if id in ("P2", "P6") and endpoints.open_sets:
            wrong = endpoints.differ(id)
            text = f"the sets hold {'no more than ' * (id == 'P2')}the endpoints"
            yield _named(Answer(id, text, place.qube, place.stage, not wrong, None, wrong), place)
        for claim in claims(question, [id]):
            yield _named(_decide(claim, place, known, until), place)


def _named(answer: Answer, place: Place) -> Answer:
    """What is claimed of a moment in between is part of P7."""
    if not place.between:
        return answer
    return replace(answer, property="P7", text=f"{answer.property}: {answer.text}")


def _decide(claim: Claim, place: Place, known: Lines, until: float) -> Answer:
    """until: the time of `time.monotonic` when the patience with the place ends."""
    begin = time.monotonic()
    until = min(until, begin + _PATIENCE)
    # Half as long for these questions as z3's choice by what is in them.
    solver = z3.SimpleSolver()
    solver.add(claim.bad)
    verdict = _asked(solver, until)
    answer = Answer(claim.id, claim.text, place.qube, place.stage, verdict == z3.unsat or None)
    if verdict == z3.sat:
        model = _everyday(solver, claim, until)
        found = counterexample.of(claim, model, place, known)
        answer = replace(answer, holds=False, counterexample=found)
    elif verdict == z3.unknown:
        answer = replace(answer, trouble="the solver has not found out in time")
    return replace(answer, seconds=round(time.monotonic() - begin, 3))


def _asked(solver: z3.Solver, until: float) -> z3.CheckSatResult:
    """The solver's verdict; unknown, if it has none by then."""
    left = int((until - time.monotonic()) * 1000)
    if left <= 0:
        return z3.unknown
    solver.set("timeout", left)
    return solver.check()


def _everyday(solver: z3.Solver, claim: Claim, until: float) -> z3.ModelRef:
    """The model with as many of the claim's wishes as can be had together, in their order."""
    model = solver.model()
    for wish in claim.likely():
        if z3.is_true(model.eval(wish, model_completion=True)):
            solver.add(wish)
            continue
        solver.push()
        solver.add(wish)
        if _asked(solver, until) == z3.sat:
            model = solver.model()
        else:
            solver.pop()
    return model


def derived(found: Ruleset, without: str) -> Ruleset:
    """A rule set as it is for a moment; see :class:`Place`."""
    tables = dict(found.tables)
    for key, table in tables.items():
        if without == "policies":
            chains = {
                name: replace(chain, base=replace(chain.base, policy="accept"))
                if chain.base
                else chain
                for name, chain in table.chains.items()
            }
            tables[key] = replace(table, chains=chains)
        elif without == "intervals":
            sets = {
                name: replace(one, elements={}) if name.startswith("ranges") else one
                for name, one in table.sets.items()
            }
            tables[key] = replace(table, sets=sets)
    return Ruleset(tables)
