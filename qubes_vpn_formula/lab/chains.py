# SPDX-License-Identifier: GPL-2.0-or-later
"""The machines that the lab builds, as plain data (R02, R03, R05, R88)."""

from dataclasses import dataclass

from qubes_vpn_formula.lab.tunnels import Kind

WIREGUARD = Kind("wireguard")


@dataclass(frozen=True)
class Member:
    """A qube.  netvm: whose client it is; None for sys-net, which has the network card.

    provides: whether it may have clients.  tunnel: what it makes of its clients' traffic.
    uplink: the name of its device towards the netvm.  role: what else it is: `resolver`, `tor`.
    """

    name: str
    netvm: str | None
    provides: bool = True
    tunnel: Kind | None = None
    uplink: str = "eth0"
    role: str = ""


#: sys-net's network card.
CARD = "ens6"
SYS_NET = Member("sys-net", None, uplink=CARD)
#: netvms before their clients
Chain = tuple[Member, ...]


def simple(kind: Kind = WIREGUARD, uplink: str = "eth0") -> Chain:
    """Clients, sys-vpn, sys-firewall, sys-net."""
    return (
        SYS_NET,
        Member("sys-firewall", "sys-net"),
        Member("sys-vpn", "sys-firewall", tunnel=kind, uplink=uplink),
        *_clients("sys-vpn"),
    )


def dns(kind: Kind = WIREGUARD) -> Chain:
    """Clients, sys-firewall, sys-dns, sys-vpn, sys-net."""
    return (
        SYS_NET,
        Member("sys-vpn", "sys-net", tunnel=kind),
        Member("sys-dns", "sys-vpn"),
        Member("sys-firewall", "sys-dns"),
        *_clients("sys-firewall"),
    )


def parallel(first: Kind = WIREGUARD, second: Kind = WIREGUARD) -> Chain:
    """Two VPN qubes side by side, a client behind each."""
    return (
        SYS_NET,
        Member("sys-firewall", "sys-net"),
        Member("sys-vpn", "sys-firewall", tunnel=first),
        Member("sys-vpn-2", "sys-firewall", tunnel=second),
        Member("client-1", "sys-vpn", provides=False),
        Member("client-2", "sys-vpn-2", provides=False),
    )


def multihop(outer: Kind = WIREGUARD, inner: Kind = WIREGUARD) -> Chain:
    """Two tunnels in a row: sys-vpn-2 is a client of sys-vpn."""
    return (
        SYS_NET,
        Member("sys-firewall", "sys-net"),
        Member("sys-vpn", "sys-firewall", tunnel=outer),
        Member("sys-vpn-2", "sys-vpn", tunnel=inner),
        *_clients("sys-vpn-2"),
    )


def _clients(netvm: str) -> Chain:
    return tuple(Member(f"client-{number}", netvm, provides=False) for number in (1, 2))
