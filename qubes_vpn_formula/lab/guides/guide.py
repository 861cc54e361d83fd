# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guide's killswitch is."""

from dataclasses import dataclass

from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.tunnels import Tunnel

USER_SCRIPT = "/rw/config/qubes-firewall-user-script"
RC_LOCAL = "/rw/config/rc.local"


@dataclass(frozen=True)
class Guide:
    """The files that somebody has in a VPN qube who followed a guide; a `Killswitch`.

    source: document and headings.  files: `{path: (text, mode)}`.  notes: what is reading of ours,
    what stands in for something, what is left out.  endpoint: the tunnel's endpoint as the guide
    wants it in endpoints.txt, a pattern with the fields of a :class:`Tunnel`; "" for no such file.
    """

    name: str
    title: str
    source: str
    files: dict[str, tuple[str, int]]
    notes: str
    endpoint: str = ""
    units: tuple[str, ...] = ()
    udev_rules: tuple[str, ...] = ()

    def install(self, qube: Qube, tunnel: Tunnel) -> None:
        """Write the files; they have an effect where Qubes' boot runs them, and not before.

        Where they say tun0 they name this tunnel's device: every reader would do that.
        """
        for path, (text, mode) in self.files.items():
            qube.write(path, text.replace("tun0", tunnel.device), mode)
        if self.endpoint:
            line = self.endpoint.format_map(vars(tunnel))
            qube.write("/rw/config/vpn/endpoints.txt", f"{line}\n")
