# SPDX-License-Identifier: GPL-2.0-or-later
"""What a mutant is."""

from dataclasses import dataclass

from qubes_vpn_formula.lab.installation import Files
from qubes_vpn_formula.lab.mutants.edits import Edit
from qubes_vpn_formula.lab.qube import Qube


@dataclass(frozen=True)
class Mutant:
    """A killswitch with one fault.

    what: the fault in words.  caught_by: ids of the attacks (docs/attacks.md) that must find it.
    """

    name: str
    what: str
    edits: tuple[Edit, ...]
    caught_by: tuple[str, ...]

    def files(self, ours: Files) -> Files:
        """*ours* with the fault.  Raises NothingChanged when an edit does not apply any more."""
        changed = dict(ours)
        for edit in self.edits:
            edit(changed)
        return changed

    def install(self, qube: Qube, ours: Files) -> None:
        """Write the files into a qube; what a boot makes of them is the boot's part."""
        for path, (text, mode) in self.files(ours).items():
            qube.write(path, text, mode)


def mutant(name: str, what: str, edits: Edit | list[Edit], caught_by: str) -> Mutant:
    """A mutant, written shortly: one edit or several, ids with blanks between them."""
    steps = tuple(edits) if isinstance(edits, list) else (edits,)
    return Mutant(name, what, steps, tuple(caught_by.split()))
