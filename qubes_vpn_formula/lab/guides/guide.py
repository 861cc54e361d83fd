# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guide's killswitch is."""

from dataclasses import dataclass

from qubes_vpn_formula.lab.qube import Qube

USER_SCRIPT = "/rw/config/qubes-firewall-user-script"
RC_LOCAL = "/rw/config/rc.local"


@dataclass(frozen=True)
class Guide:
    """The files that somebody has in a VPN qube who followed a guide.

    source: document and headings.  files: `{path: (text, mode)}`.  notes: what is reading of ours,
    what stands in for something, what is left out.
    """

    name: str
    title: str
    source: str
    files: dict[str, tuple[str, int]]
    notes: str

    def install(self, qube: Qube) -> None:
        """Write the files; they have an effect where Qubes' boot runs them, and not before."""
        for path, (text, mode) in self.files.items():
            qube.write(path, text, mode)
