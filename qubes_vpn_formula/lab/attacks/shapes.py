# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks in other chains than the simple one, with more than one tunnel (R02, R03, R05, R88)."""

from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.cell import Cell
from qubes_vpn_formula.lab.machine import SERVER, Lab
from qubes_vpn_formula.lab.oracle import Endpoint
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.tunnels import Kind, Tunnel, tunnel

section = Section("Shapes of chain")

_HALVES = ("0.0.0.0/1", "128.0.0.0/1")


@section.attack("D01", "clients behind a firewall and a DNS qube", "OUT")
def behind_others(cell: Cell) -> None:
    """They arrive masqueraded, and sys-dns has traffic of its own."""

    def window(name: str) -> None:
        if name in ("xendriverdomain.service", "qubes-network.service"):
            cell.salvo("all", f"boot, after {name}", routed=False)

    cell.start("dns", between=window)
    sys_dns = cell.lab.qubes["sys-dns"]
    cell.standing_flow()
    for half in _HALVES:
        _by_uplink(cell, half)
    cell.go_on(0.1)
    cell.volley(cell.phase("the two halves"), cell.client, sys_dns)
    _to_endpoint(cell, cell.tunnel, cell.client, sys_dns)
    cell.tunnel_kill()
    cell.go_on(0.1)
    marker = cell.phase("the tunnel is killed")
    cell.volley(marker, cell.client, sys_dns, cell.vpn)
    packet = IP(src=cell.vpn.qubesdb["/qubes-ip"], dst=SERVER[4]) / UDP(dport=443) / Raw(marker)
    cell.send(cell.vpn, senders.on_link(packet, device="eth0"))


@section.attack("D02", "two VPN qubes side by side", "OUT")
def side_by_side(cell: Cell) -> None:
    """One tunnel goes down; neither its endpoint nor the other's is a way out for its clients."""
    cell.start("parallel")
    cell.standing_flow()
    cell.tunnel_down()
    cell.go_on(0.1)
    cell.salvo("all", "one tunnel is down")
    for one in cell.lab.tunnels.values():
        _to_endpoint(cell, one, cell.client)
    cell.volley(cell.phase("the other's client"), cell.lab.qubes["client-2"])


@section.attack("D03", "two VPN qubes in a row", "OUT")
def in_a_row(cell: Cell) -> None:
    """The outer tunnel goes down, then the inner one, whose qube is a client of the outer's."""
    cell.start("multihop")
    inner = cell.lab.qubes["sys-vpn-2"]
    cell.standing_flow()
    cell.tunnel_down()
    cell.go_on(0.1)
    cell.volley(cell.phase("the outer tunnel is down"), cell.client, cell.vpn, inner)
    cell.tunnel_down("sys-vpn-2")
    cell.volley(cell.phase("the inner one too"), cell.client, inner)


@section.attack("D04", "two tunnels in one qube", "OUT", "IN")
def together(cell: Cell) -> None:
    """First one goes down, then the other; nothing unasked comes out of the one that is left."""
    other = tunnel(Kind("wireguard"), 2)

    def configured(lab: Lab) -> None:
        first = lab.tunnels["sys-vpn"]
        vpn = lab.qubes["sys-vpn"]
        vpn.write("/rw/config/vpn/endpoints.txt", f"{first.endpoint}\n{other.endpoint}\n")
        vpn.run("rm -f /rw/config/vpn/killswitch.conf")
        cell.allow(*(Endpoint(one.protocol, one.server, one.port) for one in (first, other)))

    cell.start("simple", "openvpn-udp", before=configured)
    _by_uplink(cell, other.server)
    other.serve(cell.lab.internet)
    other.up(cell.vpn)
    other.ready(cell.vpn)
    cell.standing_flow()
    # Qubes' own rules stop it too, unless the user's own say otherwise.
    cell.vpn.run("nft add rule ip qubes custom-forward accept")
    marker = cell.phase("unasked")
    cell.watch(cell.vpn, cell.client, "eth0", marker)
    client = cell.lab.address("client-1")
    cell.lab.internet.run(["ip", "route", "add", client, "dev", f"wgs{other.number}"])
    source = {"source": (SERVER[4], 443)}
    cell.send(cell.lab.internet, senders.udp(client, 443, marker, count=3, **source))

    cell.tunnel_kill()
    cell.go_on(0.1)
    _to_endpoint(cell, other, cell.client)
    other.down(cell.vpn)
    cell.go_on(0.1)
    cell.salvo("all", "both are down")
    _to_endpoint(cell, cell.tunnel, cell.client)


def _by_uplink(cell: Cell, to: str) -> None:
    """A route over the uplink."""
    gateway = cell.vpn.qubesdb["/qubes-gateway"]
    cell.vpn.run(["ip", "route", "replace", to, "via", gateway, "dev", "eth0", "onlink"])


def _to_endpoint(cell: Cell, tunnel: Tunnel, *qubes: Qube) -> None:
    """Qubes behind it send to an endpoint, which is routed over the uplink."""
    _by_uplink(cell, tunnel.server)
    marker = cell.phase(f"to the endpoint {tunnel.endpoint}")
    for qube in qubes:
        cell.send(qube, senders.udp(tunnel.server, tunnel.port, marker, count=3))
