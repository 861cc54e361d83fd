# SPDX-License-Identifier: GPL-2.0-or-later
"""What came out of a fleet's run: as data, as lines, and as a page."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qubes_vpn_formula import __version__
from qubes_vpn_formula.commands import check
from qubes_vpn_formula.console import printable
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.fleet.examine import Examined
from qubes_vpn_formula.fleet.tree import Bundle
from qubes_vpn_formula.page import render

_PAGE = Path(__file__).with_name("report.html.jinja")

#: Of the JSON.
VERSION = 1
#: Machines that a line names.
_NAMED = 5
#: Of machines that are built.
GOOD = ("proven", "checked")
_VERDICTS = (*GOOD, "refuted", "unknown", "refused")
_STYLES = {"problem": "red", "remark": "yellow", "refuted": "bold red", "unknown": "bold red"}


def data(
    folder: str,
    machines: Sequence[Examined],
    errors: Sequence[UserError],
    answers: Mapping[str, Sequence[Any]] | None,
    built: Mapping[str, Bundle],
) -> dict[str, Any]:
    """Everything about a run, ready for JSON.

    errors: what in the folder is no machine.  answers: the proofs', by a machine's name; None when
    nothing was to be proven.  built: the bundle of each machine that has one.
    """
    found = [_machine(one, answers, built) for one in machines]
    rulesets = [one.digest for machine in machines for one in machine.rulesets]
    return {
        "version": VERSION,
        "formula": __version__,
        "folder": folder,
        "tally": _tally(found),
        "told": [*_told(machines, errors), *_doubts(machines, answers or {})],
        "rulesets": {"all": len(rulesets), "different": len(set(rulesets))},
        "machines": found,
    }


def exit_code(content: Mapping[str, Any]) -> int:
    """2 when something cannot be used, 1 when something is not proven, 0 when all is well."""
    if any(one["kind"] == "problem" for one in content["told"]):
        return 2
    return int(any(one["kind"] in ("refuted", "unknown") for one in content["told"]))


def verdict(machine: Examined, answers: Mapping[str, Sequence[Any]] | None) -> str:
    """refused (it has problems), refuted, unknown, proven; checked when nothing was proven."""
    if not machine.pillar:
        return "refused"
    if answers is None:
        return "checked"
    held = {answer.holds for answer in answers[machine.name]}
    if False in held:
        return "refuted"
    return "proven" if held == {True} else "unknown"


def lines(content: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """The result for a screen, as (line, style): what is wrong, once, and whose it is."""
    for one in content["told"]:
        yield printable(one["text"]), _STYLES[one["kind"]]
        if names := one["machines"]:
            yield f"    {_names(names)}", None
    yield summary(content), "bold"


def summary(content: Mapping[str, Any]) -> str:
    """One line."""
    tally, rulesets = content["tally"], content["rulesets"]
    words = ", ".join(f"{count:,} {word}" for word, count in tally.items()) or "none"
    count = len(content["machines"])
    line = f"{count:,} machine{'s' * (count != 1)}: {words}"
    if {"proven", "refuted", "unknown"} & set(tally):
        line += f" ({rulesets['all']:,} rule sets, {rulesets['different']:,} different)"
    return line


def page(content: Mapping[str, Any]) -> str:
    """The page: all it needs is in it."""
    return render(_PAGE, content, summary=summary(content), names=_names, printable=printable)


def _machine(
    machine: Examined,
    answers: Mapping[str, Sequence[Any]] | None,
    built: Mapping[str, Bundle],
) -> dict[str, Any]:
    return {
        "name": machine.name,
        "files": list(machine.files),
        "verdict": verdict(machine, answers),
        "steps": machine.steps,
        "rulesets": [one._asdict() for one in machine.rulesets],
        "bundle": bundle._asdict() if (bundle := built.get(machine.name)) else None,
    }


def _tally(found: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many there are of each kind that there is."""
    verdicts = [one["verdict"] for one in found]
    counts = {word: verdicts.count(word) for word in _VERDICTS}
    counts["built"] = sum(1 for one in found if one["bundle"])
    return {word: count for word, count in counts.items() if count}


def _told(machines: Sequence[Examined], errors: Sequence[UserError]) -> Iterator[dict[str, Any]]:
    """Problems and remarks, each once, with the names of the machines that have it."""
    for error in errors:
        yield {"kind": "problem", **check.error_line(str(error.file), error), "machines": []}
    whose: dict[str, dict[str, Any]] = {}
    for machine in machines:
        for line in machine.told:
            kind = "remark" if line["remark"] else "problem"
            one = whose.setdefault(line["text"], {"kind": kind, **line, "machines": []})
            one["machines"].append(machine.name)
    yield from whose.values()


def _doubts(
    machines: Sequence[Examined], answers: Mapping[str, Sequence[Any]]
) -> Iterator[dict[str, Any]]:
    """What is refuted or could not be proven, each once, with the names of the machines."""
    whose: dict[str, dict[str, Any]] = {}
    for machine in machines:
        for answer in answers.get(machine.name, ()):
            if answer.holds:
                continue
            kind = "unknown" if answer.holds is None else "refuted"
            where = f"({answer.qube}: {answer.stage})"
            what = f"{answer.property}: {answer.text}" if answer.property else answer.text
            told = answer.counterexample["told"] if answer.counterexample else answer.trouble
            text = f"{kind.upper()}  {what} {where}: {told}"
            one = whose.setdefault(text, {"kind": kind, "text": text, "machines": []})
            one["machines"].append(machine.name)
    yield from whose.values()


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    shown = ", ".join(names[:_NAMED])
    return f"{shown} and {more:,} more" if more > 0 else shown
