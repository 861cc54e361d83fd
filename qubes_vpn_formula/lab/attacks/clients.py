# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks by clients, and on clients (R41, R64)."""

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_RA,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP
from scapy.packet import Packet, Raw

from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.agent import CLIENT_MAC
from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.cell import Cell
from qubes_vpn_formula.lab.machine import SERVER
from qubes_vpn_formula.lab.traffic import Job

section = Section("Clients")

_PORT = 4444
_BEYOND = {4: "203.0.113.99", 6: "2001:db8:80::99"}
_MAC = CLIENT_MAC.replace(":", "")
#: A client's link-local address, from its MAC address.
_CLIENT_LINK_LOCAL = "fe80::216:3eff:fe5e:6c00"


@section.attack("C01", "client to the endpoint in clear", "OUT", fast=True)
def to_the_endpoint(cell: Cell) -> None:
    """The endpoint's exact protocol, address and port, routed over the uplink, as it must be."""
    cell.start()
    _route(cell, cell.tunnel.server)
    cell.route_to_uplink()
    marker = cell.phase("client to the endpoint")
    cell.send(cell.client, senders.udp(cell.tunnel.server, cell.tunnel.port, marker, count=3))


@section.attack("C02", "spoofed sources", "OUT")
def spoofed(cell: Cell) -> None:
    """What refuses them would go to the uplink and quote the packet."""
    cell.start()
    cell.client.run(["nft", "flush", "ruleset"])  # Qubes' masquerade there undoes it
    sources = {
        4: [cell.lab.address("sys-vpn"), cell.tunnel.server, cell.lab.address("client-2")],
        6: [cell.lab.address("sys-vpn", 6), cell.targets(6)[-1], cell.lab.address("client-2", 6)],
    }
    for state in ("tunnel up", "tunnel down", "tunnel down, no antispoof"):
        if state == "tunnel down":
            cell.tunnel_down()
        if state.endswith("antispoof"):
            cell.vpn.run("nft 'flush chain ip qubes antispoof; flush chain ip6 qubes antispoof'")
        marker = cell.phase(f"spoofed, {state}")
        for family, to in SERVER.items():
            for source in sources[family]:
                cell.send(cell.client, *senders.spoofed(to, 443, marker, source))


@section.attack("C03", "client to client", "IN", fast=True)
def to_another_client(cell: Cell) -> None:
    """By address, with a route of its own too."""
    cell.start()
    _accept(cell, "custom-forward")
    cell.watch(cell.vpn, cell.lab.qubes["client-2"], "eth0")
    marker = cell.phase("client to client")
    for family in (4, 6):
        to = cell.lab.address("client-2", family)
        cell.send(cell.client, *senders.basic(to, marker, _PORT))
        cell.client.run(["ip", "route", "add", to, "dev", "eth0"])
        packets = _unasked(cell.lab.address("client-1", family), to, marker)
        cell.send(cell.client, senders.on_link(*packets, device="eth0"))


@section.attack("C04", "the far end to a client", "IN", fast=True)
def from_the_tunnel(cell: Cell) -> None:
    """Unasked, to its address; to its masqueraded flow, from another port and address."""
    cell.start()
    _accept(cell, "custom-forward")
    inside = f"10.64.{cell.tunnel.number}.2", f"fd64:{cell.tunnel.number}::2"
    opened = [
        senders.udp(to, 7, b"hello", source=("::" if ":" in to else "", _PORT))
        for to in SERVER.values()
    ]
    cell.send(cell.client, *opened)  # nothing listens at its other end
    cell.watch(cell.vpn, cell.client, "eth0")
    marker = cell.phase("far end to client")
    for family, translated in zip((4, 6), inside, strict=True):
        client = cell.lab.address("client-1", family)
        cell.lab.internet.run(["ip", "route", "add", client, "dev", f"wgs{cell.tunnel.number}"])
        jobs = [senders.with_header(*_unasked(SERVER[family], client, marker))]
        # The flow's other end is SERVER, port 7.
        jobs += [senders.udp(translated, _PORT, marker, source=(SERVER[family], 8))]
        jobs += [senders.udp(translated, _PORT, marker, source=(_other_server(family), 7))]
        cell.send(cell.lab.internet, *jobs)


@section.attack("C05", "the upstream to a client", "IN", fast=True)
def from_the_upstream(cell: Cell) -> None:
    """Unasked, to its address; after proxy ARP too."""
    cell.start()
    _accept(cell, "custom-forward")
    upstream, device = cell.lab.far_side("sys-vpn")
    cell.watch(cell.vpn, cell.client, "eth0")
    marker = cell.phase("upstream to client")
    cell.vpn.run("echo 1 >/proc/sys/net/ipv4/conf/eth0/proxy_arp")
    for family in (4, 6):
        client = cell.lab.address("client-1", family)
        for source in (cell.lab.address("sys-firewall", family), SERVER[family]):
            packets = _unasked(source, client, marker)
            cell.send(upstream, senders.on_link(*packets, device=device, to=_MAC))
    client = cell.lab.address("client-1")
    upstream.run(["ip", "route", "replace", client, "dev", device])
    cell.send(upstream, *senders.basic(client, marker, _PORT))


@section.attack("C06", "to the VPN qube's own programs", "IN")
def to_programs(cell: Cell) -> None:
    """From the upstream, from the far end, from a client; to each of the qube's addresses."""
    cell.start()
    _accept(cell, "custom-input")
    cell.vpn.run("echo 1 >/proc/sys/net/ipv6/bindv6only")
    for everywhere in ("0.0.0.0", "::"):  # noqa: S104 - in a namespace
        cell.listen(cell.vpn, everywhere, _PORT)
    upstream, device = cell.lab.far_side("sys-vpn")
    inside = {4: f"10.64.{cell.tunnel.number}.2", 6: f"fd64:{cell.tunnel.number}::2"}
    for family in (4, 6):
        uplink = cell.lab.address("sys-vpn", family)
        marker = cell.phase("upstream to a program")
        cell.send(upstream, *senders.basic(uplink, marker, _PORT))
        packets = _unasked(SERVER[family], uplink, marker)
        cell.send(upstream, senders.on_link(*packets, device=device, to=_MAC))
        marker = cell.phase("far end to a program")
        cell.send(cell.lab.internet, *senders.basic(inside[family], marker, _PORT))
        marker = cell.phase("client to a program")
        for to in (uplink, inside[family]):
            cell.send(cell.client, *senders.basic(to, marker, _PORT))


@section.attack("C07", "transit through the VPN qube", "OUT", "IN")
def transit(cell: Cell) -> None:
    """The far end to an address beyond the uplink; the upstream into the tunnel."""
    cell.start()
    upstream, device = cell.lab.far_side("sys-vpn")
    for to in _BEYOND.values():
        _route(cell, to)
        cell.lab.internet.run(["ip", "route", "add", to, "dev", f"wgs{cell.tunnel.number}"])
    out = cell.phase("far end beyond the uplink")
    for family, to in _BEYOND.items():
        source = {"source": (cell.tunnel.inner[0 if family == 4 else 1], 0)}
        cell.send(cell.lab.internet, senders.udp(to, 443, out, **source))
        cell.send(cell.lab.internet, senders.tcp(to, 443, out, **source))
    into = cell.phase("upstream into the tunnel")
    cell.watch_tunnel(into)
    for family, to in SERVER.items():
        packets = _unasked(cell.lab.address("sys-firewall", family), to, into)
        cell.send(upstream, senders.on_link(*packets, device=device, to=_MAC))


@section.attack("C08", "a client as the upstream", "IN")
def as_upstream(cell: Cell) -> None:
    """It answers ARP for the gateway, advertises itself as router; then the route is there."""
    cell.start_without_tunnel()
    vif = cell.lab.vif("client-1")
    cell.vpn.run(f"echo 2 >/proc/sys/net/ipv6/conf/{vif}/accept_ra")
    cell.watch(cell.vpn, cell.client, "eth0")
    cell.client.run(f"ip address add {SERVER[4]} dev eth0; ip address add {SERVER[6]} dev eth0")
    cell.send(cell.client, *_gateway(cell))
    cell.salvo("own", "the client says that it is the gateway")
    for family, to in SERVER.items():
        client = cell.lab.address("client-1", family)
        cell.vpn.run(["ip", "route", "replace", to, "via", client, "dev", vif, "onlink"])
    cell.salvo("own", "the client is the gateway")


def _gateway(cell: Cell) -> list[Job]:
    """ARP's answer for the VPN qube's gateway, an advertisement of an IPv6 router."""
    gateway = cell.vpn.qubesdb["/qubes-gateway"]
    answer = ARP(op=2, psrc=gateway, hwsrc=CLIENT_MAC, pdst=gateway, hwdst="ff:ff:ff:ff:ff:ff")
    prefix = SERVER[6].partition("::")[0] + "::"
    advertisement = (
        IPv6(src=_CLIENT_LINK_LOCAL, dst="ff02::1", hlim=255)
        / ICMPv6ND_RA(prf=1, routerlifetime=1800)
        / ICMPv6NDOptSrcLLAddr(lladdr=CLIENT_MAC)
        / ICMPv6NDOptPrefixInfo(prefix=prefix, prefixlen=64)
    )
    return [
        Job("link", [bytes(answer)], senders.BROADCAST, protocol=0x0806, device="eth0"),
        senders.on_link(advertisement, device="eth0"),
    ]


def _route(cell: Cell, to: str) -> None:
    """One address is routed over the uplink, whatever the tunnel's routes are."""
    gateway = cell.vpn.qubesdb["/qubes-gateway6" if ":" in to else "/qubes-gateway"]
    cell.vpn.run(["ip", "route", "replace", to, "via", gateway, "dev", "eth0", "onlink"])


def _accept(cell: Cell, chain: str) -> None:
    """As a user does who wants to let something through."""
    for family in ("ip", "ip6"):
        cell.vpn.run(["nft", "add", "rule", family, "qubes", chain, "accept"])


def _unasked(source: str, to: str, marker: bytes) -> list[Packet]:
    """A datagram, a SYN, a ping."""
    six = ":" in to
    header = IPv6(src=source, dst=to) if six else IP(src=source, dst=to)
    ping = ICMPv6EchoRequest() if six else ICMP(type=8)
    parts = (UDP(sport=4000, dport=_PORT), TCP(sport=4000, dport=_PORT, flags="S"), ping)
    return [header / part / Raw(marker) for part in parts]


def _other_server(family: int) -> str:
    """Another address of the internet's, which the tunnel does not know."""
    return {4: "203.0.113.53", 6: "2001:db8:51::9"}[family]
