# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks by what a packet is; from a client and from the VPN qube itself (R41)."""

import ipaddress
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_RA,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.packet import Packet, Raw

from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.agent import CLIENT_MAC, NETVM_MAC
from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.cell import Cell
from qubes_vpn_formula.lab.machine import SERVER, Lab
from qubes_vpn_formula.lab.qube import Qube

section = Section("Packets")

#: What the netvm's end of every link makes of its MAC address.
_NETVM_LINK_LOCAL = "fe80::fcff:ffff:feff:ffff"
#: An address of another qube somewhere in the machine.
_OTHER_QUBE = "fd09:24ef:4179::a89:77"
#: Timestamp, address mask, redirect, router solicitation, and some that nobody uses (IANA).
_ICMP = (13, 17, 5, 10, 1, 40, 42, 253)
#: Node information, router solicitation, MLD reports, redirect, and some that nobody uses.
_ICMPV6 = (139, 133, 131, 143, 137, 100, 200, 255)
_LOCAL = ("10.1.2.3", "172.16.1.2", "192.168.1.2", "169.254.1.2", "fd00:1::2", _OTHER_QUBE)
_PING = {4: ICMP(type=8), 6: ICMPv6EchoRequest()}
_MROUTE = Path(senders.__file__).with_name("inside") / "mroute.py"
_TEREDO = 3544
_GROUP = "239.1.2.3"
_ENDPOINTS = "/rw/config/vpn/endpoints.txt"
_MAC = CLIENT_MAC.replace(":", "")
# linux/in6.h; Python's socket module has no name for it.
_IPV6_FREEBIND = 78


@section.attack("P01", "all of it over IPv6", "OUT", fast=True)
def ipv6(cell: Cell) -> None:
    """To global, unique local and link-local addresses."""
    cell.start_without_tunnel()
    for qube, marker in _both(cell, "IPv6"):
        for to in (*cell.targets(6), _OTHER_QUBE):
            cell.send(qube, *senders.basic(to, marker))
        for to in (_NETVM_LINK_LOCAL, "ff02::1"):
            jobs = senders.basic(to, marker)
            cell.send(qube, *(replace(job, device="eth0") for job in jobs))


@section.attack("P02", "every kind of ICMP", "OUT", fast=True)
def icmp(cell: Cell) -> None:
    """Echo with data, and what no program needs."""
    cell.start_without_tunnel()
    for qube, marker in _both(cell, "ICMP"):
        for family, kinds in ((4, _ICMP), (6, _ICMPV6)):
            jobs = [senders.icmp(SERVER[family], kind, marker) for kind in kinds]
            cell.send(qube, senders.echo(SERVER[family], marker * 10), *jobs)
        jobs = [senders.icmp("ff02::2", kind, marker, device="eth0") for kind in _ICMPV6]
        cell.send(qube, *jobs)


@section.attack("P03", "a client's neighbour discovery to a global address", "OUT")
def neighbours(cell: Cell) -> None:
    """With data behind it; hop limit 255 and 64."""
    cell.start_without_tunnel()
    source = _address(cell, cell.client, 6)
    for hop_limit in (255, 64):
        marker = cell.phase(f"neighbour discovery, hop limit {hop_limit}")
        cell.send(
            cell.client, *senders.neighbour("eth0", marker, source, SERVER[6], hop_limit=hop_limit)
        )


@section.attack("P04", "the upstream's router advertisements", "OUT")
def advertised(cell: Cell) -> None:
    """They give an address, a route and a resolver to a kernel that takes them."""
    cell.start_without_tunnel()
    cell.vpn.run("echo 2 >/proc/sys/net/ipv6/conf/eth0/accept_ra")
    cell.vpn.run("echo 1 >/proc/sys/net/ipv6/conf/eth0/autoconf")
    upstream, device = cell.lab.far_side("sys-vpn")
    advertisement = (
        IPv6(src=_NETVM_LINK_LOCAL, dst="ff02::1", hlim=255)
        / ICMPv6ND_RA(prf=1, routerlifetime=1800)
        / ICMPv6NDOptSrcLLAddr(lladdr=NETVM_MAC)
        / ICMPv6NDOptPrefixInfo(prefix="2001:db8:77::", prefixlen=64)
        / ICMPv6NDOptRDNSS(dns=[SERVER[6]], lifetime=1800)
    )
    cell.send(upstream, senders.on_link(advertisement, device=device, to=_MAC))
    marker = cell.salvo("own", "advertised")
    cell.send(cell.vpn, *senders.dns(SERVER[6], marker))


@section.attack("P05", "fragments", "OUT", fast=True)
def fragments(cell: Cell) -> None:
    """In ways that have fooled filters; as raw IP and as frames."""
    cell.start_without_tunnel()
    for qube, marker in _both(cell, "fragments"):
        for family in (4, 6):
            to = SERVER[family]
            source = _address(cell, qube, family)
            jobs = [senders.large_udp(to, 443, marker)]
            for pieces in senders.fragments(source, to, 443, marker).values():
                jobs += [senders.with_header(*pieces), senders.on_link(*pieces, device="eth0")]
            cell.send(qube, *jobs)


@section.attack("P06", "neither UDP nor TCP nor ICMP", "OUT")
def protocols(cell: Cell) -> None:
    """Other protocols of IP; Teredo."""
    cell.start_without_tunnel()
    for qube, marker in _both(cell, "other protocols"):
        for to in SERVER.values():
            jobs = [senders.protocol(to, one, marker) for one in senders.PROTOCOLS.values()]
            cell.send(qube, *jobs, senders.udp(to, _TEREDO, marker))


@section.attack("P07", "options, extension headers, data in a SYN", "OUT")
def options(cell: Cell) -> None:
    """Source routes go over an endpoint, which is allowed, on to a server."""
    hops = {4: "198.51.100.1", 6: "2001:db8:51::1"}

    def another_endpoint(lab: Lab) -> None:
        line = f"[{hops[6]}]:{lab.tunnels['sys-vpn'].port}/udp"
        lab.qubes["sys-vpn"].run(f"[ ! -e {_ENDPOINTS} ] || echo '{line}' >>{_ENDPOINTS}")

    cell.start_without_tunnel(before=another_endpoint)
    for qube, marker in _both(cell, "options"):
        for family, to in SERVER.items():
            source, port = _address(cell, qube, family), cell.tunnel.port
            # What follows the source routes in the list may go to an endpoint.
            routes = {4: 4, 6: 2}[family]
            packets = senders.routed(source, to, port, marker, by=hops[family])[:routes]
            packets += senders.routed(source, to, 443, marker, by=to)
            jobs = [senders.with_header(packet) for packet in packets]
            cell.send(qube, *jobs, senders.fast_open(to, 443, marker))


@section.attack("P08", "raw packet socket", "OUT", fast=True)
def packet_socket(cell: Cell) -> None:
    """The qube's own, which passes by all of netfilter but the gate."""
    cell.start_without_tunnel()
    marker = cell.phase("raw packet socket")
    for family in (4, 6):
        source = _address(cell, cell.vpn, family)
        for to in cell.targets(family):
            parts = [UDP(sport=4000, dport=443), TCP(sport=4000, dport=443), _PING[family]]
            packets = [_ip(source, to) / part / Raw(marker) for part in parts]
            past = senders.on_link(*packets, device="eth0", options=[senders.QDISC_BYPASS])
            cell.send(cell.vpn, senders.on_link(*packets, device="eth0"), past)


@section.attack("P09", "frames that are no IP", "OUT")
def other_frames(cell: Cell) -> None:
    """IP in a VLAN, PPPoE, MPLS, LLDP, EAPOL, an ethertype that nobody uses."""
    cell.start_without_tunnel()
    for qube, marker in _both(cell, "no IP"):
        source = _address(cell, qube, 4)
        packet = IP(src=source, dst=SERVER[4]) / UDP(dport=443) / Raw(marker)
        cell.send(qube, *senders.other_frames("eth0", marker, packet))


@section.attack("P10", "DHCP", "OUT", fast=True)
def dhcp(cell: Cell) -> None:
    """Over UDP, and on a packet socket as DHCP clients do at first; DHCPv6."""
    cell.start_without_tunnel()
    for qube, marker in _both(cell, "DHCP"):
        cell.send(qube, *senders.dhcp("eth0", marker))
        cell.send(qube, senders.udp(SERVER[4], 67, marker, source=("", 68)))


@section.attack("P11", "NTP", "OUT", fast=True)
def ntp(cell: Cell) -> None:
    """To any server and to the netvm."""
    cell.start_without_tunnel()
    for qube, marker in _both(cell, "NTP"):
        for to in (*cell.targets(4), *cell.targets(6)):
            cell.send(qube, senders.ntp(to, marker))


@section.attack("P12", "multicast and broadcast", "OUT")
def multicast(cell: Cell) -> None:
    """What desktops tell all around; a client's, routed to the uplink."""
    cell.start_without_tunnel()
    for qube, marker in _both(cell, "local"):
        cell.send(qube, *senders.local("eth0", marker))
    route = [cell.lab.vif("client-1"), "eth0", _GROUP, cell.lab.address("client-1")]
    program = [sys.executable, "-I", str(_MROUTE), *route]
    router = cell.vpn.popen(program, stdout=subprocess.PIPE, text=True)
    if router.stdout.readline() != "routing\n":
        cell.not_run("the kernel has no multicast routing (IP_MROUTE)")
    hops = (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
    marker = cell.phase("client's, multicast route")
    cell.send(cell.client, senders.udp(_GROUP, 5000, marker, device="eth0", options=[hops]))


@section.attack("P13", "local networks", "OUT")
def local_networks(cell: Cell) -> None:
    """Private addresses, and the netvm's own."""
    cell.start_without_tunnel()
    gateways = [cell.vpn.qubesdb["/qubes-gateway"], cell.vpn.qubesdb["/qubes-gateway6"]]
    for qube, marker in _both(cell, "local networks"):
        jobs = [job for to in (*_LOCAL, *gateways) for job in senders.basic(to, marker)]
        cell.send(qube, *jobs)
        jobs = senders.basic(_NETVM_LINK_LOCAL, marker)
        cell.send(qube, *(replace(job, device="eth0") for job in jobs))


@section.attack("P14", "near the endpoint", "OUT", fast=True)
def near_endpoint(cell: Cell) -> None:
    """Its other ports and the other protocol; its neighbours' addresses."""
    cell.start_without_tunnel()
    marker = cell.phase("near the endpoint")
    server, port = cell.tunnel.server, cell.tunnel.port
    address = ipaddress.ip_address(server)
    ports = (port - 1, port + 1, 1, 53, 443, 65535)
    jobs = [senders.udp(server, other, marker) for other in ports]
    jobs += [senders.tcp(server, other, marker) for other in (port, 443)]
    jobs += [senders.udp(str(address + step), port, marker) for step in (-1, 1, 256)]
    jobs += [senders.udp("2001:db8:51::1", port, marker), senders.echo(server, marker)]
    cell.send(cell.vpn, *jobs)


@section.attack("P15", "own packets, bound and dressed up", "OUT")
def bound(cell: Cell) -> None:
    """To the uplink, also while the tunnel is up; from the tunnel's address; dressed up."""
    cell.start()
    ours = {4: f"10.64.{cell.tunnel.number}.2", 6: f"fd64:{cell.tunnel.number}::2"}
    for state in ("tunnel up", "tunnel down"):
        marker = cell.phase(f"bound to the uplink, {state}")
        for to in SERVER.values():
            jobs = [replace(job, device="eth0") for job in senders.basic(to, marker)]
            cell.send(cell.vpn, *jobs)
        if state == "tunnel up":
            cell.tunnel_down()
    marker = cell.phase("dressed up")
    for family, to in SERVER.items():
        port, anywhere = cell.tunnel.port, "::" if family == 6 else ""
        # Its address goes with the interface.
        freebind = [(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)] if family == 6 else []
        tunnels = {"source": (ours[family], 0), "device": "eth0", "options": freebind}
        cell.send(
            cell.vpn,
            senders.udp(to, 443, marker, **tunnels),
            senders.tcp(to, 443, marker, **tunnels),
            senders.udp(to, 443, marker, source=(anywhere, port)),
            senders.udp(to, port, marker, options=[(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)]),
            senders.udp(SERVER[4], port, marker, options=[(socket.IPPROTO_IP, socket.IP_TOS, 16)]),
        )


@section.attack("P16", "answers that the kernel makes", "OUT")
def kernel_answers(cell: Cell) -> None:
    """To a SYN, a datagram, a ping from the upstream, a server, the endpoint (or its address)."""
    cell.start_without_tunnel()
    for family in ("ip", "ip6"):
        cell.vpn.run(["nft", "add", "rule", family, "qubes", "custom-input", "accept"])
    upstream, device = cell.lab.far_side("sys-vpn")
    marker = cell.phase("answers")
    sources = {4: [cell.targets(4)[1], cell.tunnel.server], 6: [cell.targets(6)[1]]}
    for family in (4, 6):
        to = _address(cell, cell.vpn, family)
        for source in (*sources[family], SERVER[family]):
            parts = [
                TCP(sport=cell.tunnel.port, dport=4444),
                UDP(sport=cell.tunnel.port, dport=4444),
                UDP(sport=4000, dport=4444),
                _PING[family],
            ]
            packets = [_ip(source, to) / part / Raw(marker) for part in parts]
            cell.send(upstream, senders.on_link(*packets, device=device, to=_MAC))


@section.attack("P17", "a container's packets", "OUT")
def container(cell: Cell) -> None:
    """In a network namespace of its own, on a macvlan of the uplink: no IP hook of ours sees it."""
    cell.start_without_tunnel()
    box = _Box(cell.vpn)
    macvlan = "ip link add link eth0 name inside netns box type macvlan mode bridge"
    if cell.vpn.run(f"ip netns add box; {macvlan}", check=False).returncode:
        cell.not_run("the kernel has no macvlan")
    lines = ["link set inside up"]
    for family, length in ((4, 32), (6, 128)):
        gateway = cell.lab.address("sys-firewall", family)
        lines += [
            # The qube's own, as a NAT would make it.
            f"address add {_address(cell, cell.vpn, family)}/{length} dev inside nodad",
            f"neighbour add {gateway} dev inside lladdr {NETVM_MAC} nud permanent",
            f"route add default via {gateway} dev inside onlink",
        ]
    box.run(["ip", "-batch", "-"], input="\n".join(lines))
    cell.volley(cell.phase("container"), box)


class _Box:
    """A network namespace inside a qube, for senders."""

    def __init__(self, qube: Qube) -> None:
        self.name = f"{qube.name}'s container"
        self._qube = qube

    def run(self, command: list[str], **options: str) -> subprocess.CompletedProcess[str]:
        """As :meth:`Qube.run`."""
        return self._qube.run(["ip", "netns", "exec", "box", *command], **options)


def _both(cell: Cell, what: str) -> Iterator[tuple[Qube, bytes]]:
    """The VPN qube and a client, each with the marker of a phase of its own."""
    yield cell.vpn, cell.phase(f"own, {what}")
    cell.client.run(["nft", "flush", "ruleset"])  # what Qubes has there is no hindrance to root
    yield cell.client, cell.phase(f"client's, {what}")


def _ip(source: str, to: str) -> Packet:
    return IPv6(src=source, dst=to) if ":" in to else IP(src=source, dst=to)


def _address(cell: Cell, qube: Qube, family: int) -> str:
    return cell.lab.address(qube.name, family)
