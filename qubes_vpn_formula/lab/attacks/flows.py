# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks by flows that conntrack knows, should not know, or does not know (R41)."""

import socket

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.packet import Packet, Raw

from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.agent import CLIENT_MAC
from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.cell import Cell
from qubes_vpn_formula.lab.machine import SERVER, Lab
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.traffic import Echo

section = Section("Flows and their state")

#: A flow's ends, where an attack must know them.
_PORT, _SERVICE = 40000, 443
_SO_MARK = 36  # asm-generic/socket.h; Python's socket module has no name for it
_OUR_BIT = 0x10000000


@section.attack("F01", "a flow from before the rules", "OUT", fast=True)
def from_before(cell: Cell) -> None:
    """It runs in clear when they are loaded."""
    _unprotected(cell)
    cell.standing_flow()
    _protect(cell)
    cell.go_on(0.5)


@section.attack("F02", "an offloaded flow from before the rules", "OUT")
def offloaded(cell: Cell) -> None:
    """In Qubes' flowtable, which takes it past the forward chains."""
    _unprotected(cell)
    rules = cell.vpn.run("nft list table inet qubes-nat-accel", check=False).stdout
    if "flow add" not in rules:
        cell.not_run("this kernel has no flowtables (NF_FLOW_TABLE): nft refuses Qubes' own")
    cell.standing_flow()
    cell.go_on(0.5)
    _protect(cell)
    cell.go_on(0.5)


@section.attack("F03", "the tunnel of a flow vanishes", "OUT", "IN", fast=True)
def orphaned(cell: Cell) -> None:
    """One whose packets go on, one that is silent and gets answers from the uplink."""
    cell.start()
    _open(cell, cell.client)
    silent = cell.vpn.qubesdb["/qubes-ip"], f"10.64.{cell.tunnel.number}.2"
    answer = cell.phase("answers by the uplink")
    cell.watch(cell.vpn, cell.client, "eth0", answer)
    for phase, vanish in (
        ("the route flips", lambda: cell.route_to_uplink()),
        ("the tunnel is deleted", lambda: cell.vpn.run(f"ip link del {cell.tunnel.device}")),
    ):
        vanish()
        answers = [
            IP(src=SERVER[4], dst=to) / UDP(sport=_SERVICE, dport=_PORT) / Raw(answer)
            for to in (*silent, cell.lab.address("client-1"))
        ]
        _from_upstream(cell, *answers)
        marker = cell.phase(phase)
        again = {"source": ("", _PORT), "count": 3}
        cell.send(cell.client, senders.udp(SERVER[4], _SERVICE, marker, **again))


@section.attack("F04", "what conntrack calls invalid", "OUT")
def invalid(cell: Cell) -> None:
    """Segments of no connection, answers that nobody asked for, wrong checksums."""
    cell.start()
    cell.vpn.run("echo 0 >/proc/sys/net/netfilter/nf_conntrack_tcp_loose")
    for phase in ("tunnel up", "tunnel down"):
        if phase == "tunnel down":
            cell.tunnel_down()
        marker = cell.phase(phase)
        for qube, name in ((cell.client, "client-1"), (cell.vpn, "sys-vpn")):
            for family in (4, 6):
                source, to = cell.lab.address(name, family), SERVER[family]
                header = IPv6(src=source, dst=to) if family == 6 else IP(src=source, dst=to)
                broken = header / UDP(sport=_PORT, dport=443, chksum=0x1234) / Raw(marker)
                odd = senders.odd_tcp(source, to, 443, marker)
                cell.send(
                    qube,
                    senders.with_header(*odd, broken),
                    senders.icmp(to, 129 if family == 6 else 0, marker),
                )


@section.attack("F05", "ICMP errors about a known flow", "OUT")
def errors(cell: Cell) -> None:
    """From a client and from the qube; the flow is silent and the route on the uplink."""
    cell.start()
    flows = (
        (cell.client, cell.lab.address("client-1"), _PORT),
        (cell.vpn, f"10.64.{cell.tunnel.number}.2", _PORT + 1),
    )
    for qube, _, port in flows:
        _open(cell, qube, port)
    cell.route_to_uplink()
    marker = cell.phase("errors about it")
    for qube, source, port in flows:
        quoted = IP(src=SERVER[4], dst=source) / UDP(sport=_SERVICE, dport=port)
        error = IP(src=source, dst=SERVER[4]) / ICMP(type=3, code=3) / quoted / Raw(marker)
        cell.send(qube, senders.with_header(error))
    for family in (4, 6):
        for qube in (cell.client, cell.vpn):
            kinds = (3, 11, 12) if family == 4 else (1, 2, 3, 4)
            cell.send(qube, *(senders.icmp(SERVER[family], kind, marker) for kind in kinds))


@section.attack("F06", "the upstream's errors about a flow in the tunnel", "IN")
def errors_from_upstream(cell: Cell) -> None:
    """To the address that the flow has in the tunnel, to the client's own."""
    cell.start()
    _open(cell, cell.client)
    cell.watch(cell.vpn, cell.client, "eth0")
    marker = cell.phase("errors from the uplink")
    for to in (f"10.64.{cell.tunnel.number}.2", cell.lab.address("client-1")):
        quoted = IP(src=to, dst=SERVER[4]) / UDP(sport=_PORT, dport=_SERVICE)
        headers = [IP(src=source, dst=to) for source in (SERVER[4], cell.lab.address("sys-net"))]
        error = ICMP(type=3, code=3) / quoted / Raw(marker)
        _from_upstream(cell, *(header / error for header in headers))
    to = cell.lab.address("client-1", 6)
    quoted = IPv6(src=to, dst=SERVER[6]) / UDP(sport=_PORT, dport=_SERVICE)
    error = ICMPv6DestUnreach() / quoted / Raw(marker)
    _from_upstream(cell, IPv6(src=SERVER[6], dst=to) / error)


@section.attack("F07", "an expected flow from the tunnel", "IN")
def expected(cell: Cell) -> None:
    """A rule of the user's makes conntrack expect it, as a helper for FTP does."""
    cell.start()
    made = cell.vpn.run(
        "nft -f -",
        check=False,
        input="""table ip expect {
            ct expectation any { protocol udp; dport 5000; timeout 1m; size 9; l3proto ip; }
            chain before {
                type filter hook prerouting priority -150;
                udp dport 443 ct expectation set "any"
            }
        }\n""",
    )
    if made.returncode:
        cell.not_run(f"this kernel has no conntrack expectations: {made.stderr.splitlines()[0]}")
    _open(cell, cell.client)
    cell.watch(cell.vpn, cell.client, "eth0")
    client, internet = cell.lab.address("client-1"), cell.lab.internet
    internet.run(["ip", "route", "add", client, "dev", f"wgs{cell.tunnel.number}"])
    marker = cell.phase("the expected flow")
    source = {"source": (SERVER[4], 6000)}
    cell.send(internet, senders.udp(client, 5000, marker, count=3, **source))


@section.attack("F08", "mark games", "OUT")
def marks(cell: Cell) -> None:
    """A rule of the user's gives packets our mark; programs mark their own."""
    cell.start()
    cell.route_to_uplink()
    cell.vpn.run(
        "nft -f -",
        input=f"""table inet marks {{
            chain before {{
                type filter hook prerouting priority -150;
                meta mark set meta mark | {_OUR_BIT}
            }}
            chain own {{
                type route hook output priority -150;
                meta mark set meta mark | {_OUR_BIT}
            }}
        }}\n""",
    )
    marker = cell.salvo("all", "marked by a rule")
    cell.send(cell.client, senders.udp(cell.tunnel.server, cell.tunnel.port, marker, count=3))
    cell.vpn.run("nft delete table inet marks")
    marker = cell.phase("marked by the program")
    for mark in (_OUR_BIT, 0xCA6C, 0x6D6F6C65):
        marked = {"options": [(socket.SOL_SOCKET, _SO_MARK, mark)]}
        for family in (4, 6):
            cell.send(cell.vpn, senders.udp(SERVER[family], 443, marker, **marked))


@section.attack("F09", "flows without state", "OUT")
def stateless(cell: Cell) -> None:
    """Forgotten under way, so that TCP is picked up in the middle; then never tracked."""
    cell.start()
    cell.standing_flow()
    for _ in range(5):
        cell.vpn.run(["conntrack", "-F"])
    cell.tunnel_down()
    for _ in range(5):
        cell.vpn.run(["conntrack", "-F"])
        cell.go_on(0.05)
    cell.salvo("all", "forgotten")
    cell.vpn.run(
        "nft -f -",
        input="""table inet untracked {
            chain before { type filter hook prerouting priority raw; notrack; }
            chain own { type filter hook output priority raw; notrack; }
        }\n""",
    )
    cell.go_on(0.1)
    cell.salvo("all", "never tracked")


@section.attack("F10", "a client's flow with the endpoint, in the tunnel and then not", "OUT")
def as_the_tunnel(cell: Cell) -> None:
    """Same address, same port, and the port from which the tunnel sends."""
    cell.start()
    own = int(cell.vpn.run(["wg", "show", cell.tunnel.device, "listen-port"]).stdout)
    to, port = cell.tunnel.server, cell.tunnel.port
    for phase, go in (
        ("through the tunnel", lambda: None),
        ("the route flips", lambda: cell.route_to_uplink()),
        ("the tunnel is deleted", lambda: cell.vpn.run(f"ip link del {cell.tunnel.device}")),
    ):
        go()
        marker = cell.phase(phase)
        for source in (own, _PORT):
            job = senders.udp(to, port, marker, source=("", source), count=3)
            cell.send(cell.client, job)


def _unprotected(cell: Cell) -> None:
    """The qube boots without its service flag: as Qubes makes it, and clients go out in clear."""

    def flagless(lab: Lab) -> None:
        lab.qubes["sys-vpn"].qubesdb.pop("/qubes-service/qubes-vpn", None)

    cell.start_without_tunnel(before=flagless)


def _protect(cell: Cell) -> None:
    """The flag is there, and qubes-firewall starts again: its hook loads the rules."""
    cell.vpn.run(["touch", "/run/qubes-service/qubes-vpn"])
    cell.lab.agent.firewall_restart(cell.vpn)
    cell.from_now()


def _open(cell: Cell, qube: Qube, port: int = _PORT) -> None:
    """A UDP flow of a qube with a server, answered through the tunnel; without a marker."""
    with Echo(cell.lab.internet, SERVER[4], _SERVICE):
        cell.send(qube, senders.udp(SERVER[4], _SERVICE, b"hello", source=("", port), count=3))
        answered = (
            f"conntrack -L -p udp --sport {port} 2>/dev/null | grep -v UNREPLIED | grep -q udp"
        )
        wait = f"n=0; until {answered}; do n=$((n+1)); [ $n -lt 50 ] || exit 1; sleep 0.01; done"
        done = cell.vpn.run(wait, check=False)
        cell.require(not done.returncode, f"{qube.name}: no answer through the tunnel")


def _from_upstream(cell: Cell, *packets: Packet) -> None:
    """Whole packets, sent by the netvm into the VPN qube's uplink, past its own rules."""
    far, device = cell.lab.far_side("sys-vpn")
    to = CLIENT_MAC.replace(":", "")
    cell.send(far, *(senders.on_link(packet, device=device, to=to) for packet in packets))
