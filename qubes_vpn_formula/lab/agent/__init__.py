# SPDX-License-Identifier: GPL-2.0-or-later
"""What Qubes itself does in a qube: rules, forwarding, interfaces (facts 6).

Two implementations: :mod:`.restated`, ours, and :mod:`.real`, the scripts of a checkout of
qubes-core-agent-linux.  Both read what dom0 would tell them from `Qube.qubesdb`.
"""

from typing import TYPE_CHECKING, Literal, Protocol

from qubes_vpn_formula.lab.qube import Qube

if TYPE_CHECKING:
    from qubes_vpn_formula.lab.boot import Unit

#: The address of every netvm's end of a link, and of every client's (Qubes gives all the same).
NETVM_MAC = "fe:ff:ff:ff:ff:ff"
CLIENT_MAC = "00:16:3e:5e:6c:00"


class Agent(Protocol):
    """Each call does what the unit or script named does in a real qube, and returns when it would.

    Raises :class:`qubes_vpn_formula.lab.qube.CommandFailed` where the unit would fail.
    """

    def arrange(self, units: "list[Unit]") -> "list[Unit]":
        """Qubes' units as the lab restates them, with the relations that this agent's have."""

    def antispoof(self, qube: Qube) -> None:
        """qubes-antispoof.service."""

    def base(self, qube: Qube) -> None:
        """qubes-iptables.service: the tables `ip qubes` and `ip6 qubes`."""

    def firewall_start(self, qube: Qube) -> None:
        """qubes-firewall.service: its tables, the hooks, the user's script, the clients' rules."""

    def firewall_restart(self, qube: Qube) -> None:
        """`systemctl restart qubes-firewall`: its tables go, then it starts as at boot."""

    def firewall_reload(self, qube: Qube) -> None:
        """`systemctl reload qubes-firewall`: the clients' rules again; no hook, no script."""

    def firewall_kill(self, qube: Qube) -> None:
        """SIGKILL: nothing is cleaned up, and nothing follows changes until it starts again."""

    def firewall_changed(self, qube: Qube) -> None:
        """dom0 wrote other clients or rules into `qube.qubesdb`; a running service follows."""

    def network(self, qube: Qube) -> None:
        """qubes-network.service: DNS translation, then forwarding of IPv4 and IPv6."""

    def uplink(self, qube: Qube, device: str) -> None:
        """`setup-ip add DEVICE`: group 1, addresses, permanent neighbour, routes, resolv.conf."""

    def vif(
        self, qube: Qube, device: str, addresses: list[str], command: Literal["online", "offline"]
    ) -> None:
        """`vif-route-qubes COMMAND` for a client with these addresses (first IPv4, then IPv6)."""

    def dnat(self, qube: Qube) -> None:
        """`qubes-setup-dnat-to-ns`: chain `dnat-dns` is built anew from resolv.conf."""
