# SPDX-License-Identifier: GPL-2.0-or-later
"""What a mutant is."""

from dataclasses import dataclass

from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.mutants.edits import Edit, Files
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.tunnels import Tunnel


@dataclass(frozen=True)
class Mutant:
    """Our killswitch with one fault; a `Killswitch`.

    what: the fault in words.  caught_by: ids of the attacks (docs/attacks.md) that must find it.
    """

    name: str
    what: str
    edits: tuple[Edit, ...]
    caught_by: tuple[str, ...]

    @property
    def title(self) -> str:
        """What a report says of it."""
        return f"Ours with a fault: {self.what}"

    @property
    def units(self) -> tuple[str, ...]:
        """Those of ours that are left."""
        return tuple(path for path in Ours().units if path in self.files())

    @property
    def udev_rules(self) -> tuple[str, ...]:
        """Those of ours that are left."""
        return tuple(path for path in Ours().udev_rules if path in self.files())

    def files(self) -> Files:
        """Ours with the fault.  Raises NothingChanged when an edit does not apply any more."""
        changed = Ours().files()
        for edit in self.edits:
            edit(changed)
        return changed

    def install(self, qube: Qube, tunnel: Tunnel) -> None:
        """Ours, configured for this tunnel; then what differs."""
        Ours().install(qube, tunnel)
        ours, files = Ours().files(), self.files()
        qube.run(["rm", "-f", *(ours.keys() - files.keys())])
        qube.unpack({path: one for path, one in files.items() if ours.get(path) != one})


def mutant(name: str, what: str, edits: Edit | list[Edit], caught_by: str) -> Mutant:
    """A mutant, written shortly: one edit or several, ids with blanks between them."""
    steps = tuple(edits) if isinstance(edits, list) else (edits,)
    return Mutant(name, what, steps, tuple(caught_by.split()))
