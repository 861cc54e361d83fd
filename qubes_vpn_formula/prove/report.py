# SPDX-License-Identifier: GPL-2.0-or-later
"""A proof as data, as lines, and as a page that a sceptic can follow."""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import z3

from qubes_vpn_formula import __version__
from qubes_vpn_formula.page import render
from qubes_vpn_formula.prove.properties import TITLES
from qubes_vpn_formula.prove.prover import Answer

_PAGE = Path(__file__).with_name("report.html.jinja")

#: Of the JSON.
VERSION = 1


def data(
    pillar: str, answers: Sequence[Answer], seconds: float, not_claimed: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything about a proof, ready for JSON.  *proven*: whether all of it is."""
    return {
        "version": VERSION,
        "formula": __version__,
        "solver": f"z3 {z3.get_version_string()}",
        "kernel": platform.release(),
        "pillar": pillar,
        "seconds": round(seconds, 2),
        "proven": bool(answers) and all(answer.holds for answer in answers),
        "not_claimed": list(not_claimed),
        "answers": [asdict(answer) for answer in answers],
    }


def summary(content: Mapping[str, Any]) -> str:
    """One line."""
    answers = content["answers"]
    held = sum(1 for one in answers if one["holds"])
    places = len({(one["qube"], one["stage"]) for one in answers})
    word = "all proven" if content["proven"] else f"{held} proven, {len(answers) - held} not"
    return (
        f"{len(answers)} claims about {places} rule sets: {word}, in {content['seconds']} s "
        f"({content['solver']})"
    )


def lines(counterexample: Mapping[str, Any]) -> Iterator[str]:
    """A counterexample for people: the packet, and what it meets."""
    yield counterexample["told"]
    for step in counterexample["path"]:
        yield f"  {step['hook']:11}  {place(step)}: {step['text']}  [{step['does']}]"
    yield "  " + _end(counterexample)


def _end(counterexample: Mapping[str, Any]) -> str:
    """What becomes of the packet; by which device, where it was routed again."""
    if not counterexample["leaves"]:
        return "it is stopped"
    if counterexample["offloaded"]:
        return "it gets out past these rules: its flow is offloaded"
    begun, ended = counterexample["packet"]["out_name"], counterexample["ends_as"]["out_name"]
    return "it gets out" if begun == ended else f"it gets out, by {ended}"


def place(step: Mapping[str, Any]) -> str:
    """Where a step was written, as exactly as is known."""
    if "file" in step:
        return f"{step['file']}:{step['line']}"
    if "rule" in step:
        return f"{step['chain']}, rule {step['rule']}"
    return step.get("chain", "the kernel")


def page(content: Mapping[str, Any]) -> str:
    """The page: all it needs is in it."""
    stages: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for answer in content["answers"]:
        stages.setdefault(answer["qube"], {}).setdefault(answer["stage"], []).append(answer)
    more = {"titles": TITLES, "place": place, "end": _end, "summary": summary(content)}
    return render(_PAGE, content, stages=stages, **more)
