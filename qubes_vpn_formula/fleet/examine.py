# SPDX-License-Identifier: GPL-2.0-or-later
"""One machine of a fleet: what is wrong with it, or its pillar and the rule sets to be proven."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

import qubes_vpn_model
import qubes_vpn_plan
from qubes_vpn_formula.commands import check
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.fleet import layers
from qubes_vpn_formula.fleet.folder import Machine
from qubes_vpn_formula.fleet.layers import Layers
from qubes_vpn_formula.fleet.workers import Workers
from qubes_vpn_formula.pillarfile import PillarFile
from qubes_vpn_formula.prove import machine as places_of
from qubes_vpn_formula.prove.machine import Place
from qubes_vpn_model import Model
from qubes_vpn_problem import Problem

_HEADER = """\
# Built by qubes-vpn fleet build from the files of a fleet.  Change those: this one is written anew.
"""
#: Problems of one machine that are told: looking for its line takes time for each.
_TOLD = 100
#: Machines that one process looks at before it says so.
_BATCH = 16


class RuleSet(NamedTuple):
    """A rule set of a machine.  digest: as of :func:`digest`."""

    digest: str
    qube: str
    stage: str


class Examined(NamedTuple):
    """What there is to say of a machine before anything is proven.

    told: problems and remarks, as `qubes-vpn check --json` has them.  pillar: its text; empty when
    there is a problem.  steps: how many dom0 takes.  rulesets: to be proven.
    """

    name: str
    files: tuple[str, ...]
    told: tuple[dict[str, Any], ...]
    pillar: str = ""
    steps: int = 0
    rulesets: tuple[RuleSet, ...] = ()

    @property
    def problems(self) -> list[dict[str, Any]]:
        """Those of what is told for which nothing can be built."""
        return [one for one in self.told if not one["remark"]]


def examine(machines: Sequence[Machine], shared: Workers) -> list[Examined]:
    """Each machine, checked and planned."""
    batches = [machines[at : at + _BATCH] for at in range(0, len(machines), _BATCH)]
    return [one for batch in shared.map("checked", _batch, batches) for one in batch]


def _batch(batch: Sequence[Machine]) -> list[Examined]:
    """Some machines; what they share is read once."""
    known: dict[str, PillarFile | UserError] = {}
    return [_examine(machine, known) for machine in batch]


def _examine(machine: Machine, known: dict[str, PillarFile | UserError]) -> Examined:
    read = []
    for path in machine.files:
        if path not in known:
            try:
                known[path] = layers.read(path)
            except UserError as error:
                known[path] = error
        read.append(known[path])
    errors = [check.error_line(path, one)
              for path, one in zip(machine.files, read, strict=True)
              if isinstance(one, UserError)]  # fmt: skip
    if errors:
        return Examined(*machine, tuple(errors))
    files = [one for one in read if isinstance(one, PillarFile)]
    merged = Layers(files)
    model, found = qubes_vpn_model.read(merged.data["qubes_vpn"])
    found += _others(merged.data)
    problems = [_line(merged, problem) for problem in found[:_TOLD]]
    for file in files:
        problems += [check.problem_line(file.path, *each) for each in file.duplicates()[:_TOLD]]
    if problems or model is None:
        return Examined(*machine, tuple(sorted(problems, key=_place)))
    remarks = [{**_line(merged, remark), "remark": True}
               for remark in (*check.remarks(model), *_not_claimed(model))]  # fmt: skip
    steps = len(qubes_vpn_plan.plan(model))
    return Examined(*machine, tuple(remarks), render(merged.data), steps, tuple(_rulesets(model)))


def render(data: Mapping[str, Any]) -> str:
    """A pillar as text; the same for the same data."""
    text = yaml.dump(data, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)
    return _HEADER + text


def place(pillar: str, number: int) -> Place:
    """The rule set *number* of the machine whose pillar's text is *pillar*."""
    document = yaml.load(pillar, yaml.CSafeLoader)["qubes_vpn"]
    return list(places_of.places(qubes_vpn_model.build(document)))[number]


def digest(one: Place) -> str:
    """The same for the same rules with the same claims, whatever the qube is called."""
    content = dataclasses.asdict(dataclasses.replace(one, qube="", stage=""))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _rulesets(model: Model) -> Iterator[RuleSet]:
    for one in places_of.places(model):
        yield RuleSet(digest(one), one.qube, one.stage)


def _not_claimed(model: Model) -> Iterator[Problem]:
    for told in places_of.not_claimed(model):
        what = f"no proof claims this: {told.removesuffix('.')}"
        yield Problem(("qubes_vpn",), what, "qubes-vpn prove --help says what is proven.")


def _others(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Keys beside ours: nobody would look at what is in them."""
    for key in data:
        if key != "qubes_vpn":
            what = "a fleet's file has 'qubes_vpn' and nothing else at the top"
            yield Problem((key,), what, "Give Salt other pillar in files of its own.")


def _line(merged: Layers, problem: Problem) -> dict[str, Any]:
    return check.problem_line(*merged.place(problem.path), problem)


def _place(line: Mapping[str, Any]) -> tuple[str, int]:
    return line["file"], line["line"]
