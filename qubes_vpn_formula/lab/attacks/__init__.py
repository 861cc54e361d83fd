# SPDX-License-Identifier: GPL-2.0-or-later
"""The attacks of docs/attacks.md: one module per section, one function per row.

A module has one :class:`Section`, and each row is a function of a cell::

    section = Section("Tunnel")

    @section.attack("T01", "set down, the default route moves to the uplink", "OUT", fast=True)
    def t01(cell: Cell) -> None:
        cell.start()
        cell.tunnel_down()
        cell.salvo("all", "tunnel down")

What the function does is the attack; what counts as broken is the cell's business.
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qubes_vpn_formula.lab import mutants

#: Sections by their rows' first letter, in the page's order.
_ORDER = "TUBFPCNQKILDW"
#: What a row counts: see "What counts" on the page.
COUNTS = ("OUT", "IN", "STATE", "WORK")
#: The attack itself, given a :class:`qubes_vpn_formula.lab.cell.Cell`.
Run = Callable[[Any], None]


@dataclass(frozen=True)
class Attack:
    """A row of the page.

    counts: some of :data:`COUNTS`.  fast: part of `make test`.
    """

    id: str
    title: str
    section: str
    counts: tuple[str, ...]
    run: Run
    fast: bool = False

    @property
    def mutants(self) -> tuple[str, ...]:
        """Names of the mutants that this attack must find broken; they say so themselves."""
        return tuple(mutant.name for mutant in mutants.all() if self.id in mutant.caught_by)

    @property
    def place(self) -> tuple[int, str]:
        """Sorts attacks as the page has them."""
        return _ORDER.index(self.id[0]), self.id


class Section:
    """The attacks of one module.  title: the page's heading."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.attacks: list[Attack] = []

    def attack(self, id: str, title: str, *counts: str, fast: bool = False) -> Callable[[Run], Run]:
        """Makes a function an attack of this section; the fields of :class:`Attack`."""
        if not counts or set(counts) - set(COUNTS):
            raise ValueError(f"{id} counts {counts}: name some of {COUNTS}")

        def add(run: Run) -> Run:
            self.attacks.append(Attack(id, title, self.title, counts, run, fast))
            return run

        return add


@functools.cache
def all() -> tuple[Attack, ...]:
    """Every attack, in the page's order.  Raises ValueError when two have one id."""
    attacks: list[Attack] = []
    for module in pkgutil.iter_modules(__path__):
        attacks += importlib.import_module(f"{__name__}.{module.name}").section.attacks
    ids = [attack.id for attack in attacks]
    if twice := {id for id in ids if ids.count(id) > 1}:
        raise ValueError(f"ids that two attacks have: {', '.join(sorted(twice))}")
    return tuple(sorted(attacks, key=lambda attack: attack.place))


def named(id: str) -> Attack:
    """The attack of this id.  Raises KeyError."""
    return {attack.id: attack for attack in all()}[id]
