# SPDX-License-Identifier: GPL-2.0-or-later
"""The killswitch with one fault each, which an attack must find.

`docs/attacks.md` names for each attack the mutants that it must catch.  A mutant also breaks the
guards behind the one that it is about, where these would hide the fault.
"""

from qubes_vpn_formula.lab.mutants import installed, rules, service
from qubes_vpn_formula.lab.mutants.edits import NothingChanged
from qubes_vpn_formula.lab.mutants.mutant import Mutant

__all__ = ["Mutant", "NothingChanged", "all", "named"]


def all() -> list[Mutant]:
    """Every mutant, in the order of the guards that they break."""
    return [*rules.MUTANTS, *installed.MUTANTS, *service.MUTANTS]


def named(name: str) -> Mutant:
    """The mutant of this name.  Raises KeyError."""
    return {mutant.name: mutant for mutant in all()}[name]
