# SPDX-License-Identifier: GPL-2.0-or-later
"""The proofs of a fleet: machines with the same rules have one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.fleet import examine
from qubes_vpn_formula.fleet.examine import Examined
from qubes_vpn_formula.fleet.workers import Workers
from qubes_vpn_formula.prove import prover
from qubes_vpn_formula.prove.prover import Answer


@dataclass(frozen=True)
class Proofs:
    """answers: by a rule set's digest."""

    answers: dict[str, list[Answer]]

    def of(self, machine: Examined) -> Iterator[Answer]:
        """The answers about a machine, with its own qubes' names."""
        for one in machine.rulesets:
            for answer in self.answers[one.digest]:
                yield replace(answer, qube=one.qube, stage=one.stage)


def prove(machines: Iterable[Examined], shared: Workers) -> Proofs:
    """Every rule set of the machines; those that are the same are proven once, in this run."""
    wanted: dict[str, tuple[str, int]] = {}
    for machine in machines:
        for number, one in enumerate(machine.rulesets):
            wanted.setdefault(one.digest, (machine.pillar, number))
    answers = shared.map("proven", _answers, list(wanted.values()))
    return Proofs(dict(zip(wanted, answers, strict=True)))


def _answers(item: tuple[str, int]) -> list[Answer]:
    """The answers about one rule set.  What could not be asked is one that says why."""
    one = examine.place(*item)
    try:
        return list(prover.prove([one]))
    except UserError as error:
        text = "what is claimed of these rules"
        return [Answer("", text, one.qube, one.stage, None, None, str(error))]
