# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways in which something can get out of a qube, as jobs for `traffic.send`.

Every payload carries the marker.  Programs' own traffic goes by ordinary sockets, as programs send
it; what no program would send is made by scapy and goes out of raw sockets.
"""

import socket
from collections.abc import Sequence

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_InfoRequest, DHCP6OptUnknown
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption, fragment
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    ICMPv6Unknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    fragment6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.ntp import NTPHeader
from scapy.packet import Packet, Raw

from qubes_vpn_formula.lab.traffic import Job

GATEWAY = "feffffffffff"  # the far end of each link of a qube, as Qubes does
BROADCAST = "ff" * 6
#: IP protocols with neither UDP nor TCP nor ICMP in them, by IANA's numbers; 253 is for
#: experiments (RFC 3692).
PROTOCOLS = {"IGMP": 2, "IPv4 in IP": 4, "DCCP": 33, "IPv6 in IP": 41, "GRE": 47, "ESP": 50}
PROTOCOLS |= {"AH": 51, "L2TP": 115, "SCTP": 132, "UDP-Lite": 136, "experiment": 253}

# linux/in.h, linux/in6.h, linux/if_packet.h; Python's socket module has no names for them.
_IP_TRANSPARENT, _IP_NODEFRAG, _IP_MTU_DISCOVER, _IPV6_TRANSPARENT = 19, 22, 10, 75
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20
#: Packets go past the device's queue, and past everything that hooks into it.
QDISC_BYPASS = (_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)


def udp(to: str, port: int, marker: bytes, **more: object) -> Job:
    """A datagram.  more: further fields of the job, for all functions here."""
    return Job("udp", [marker], to, port, **more)


def large_udp(to: str, port: int, marker: bytes, size: int = 4000) -> Job:
    """A datagram that the kernel sends in fragments, each with the marker."""
    unlimited = (socket.IPPROTO_IP, _IP_MTU_DISCOVER, 0)
    options = [unlimited] if ":" not in to else []
    return udp(to, port, marker * (size // len(marker)), options=options)


def tcp(to: str, port: int, marker: bytes, **more: object) -> Job:
    """A connection, with data when there is an answer."""
    return Job("tcp", [marker], to, port, **more)


def fast_open(to: str, port: int, marker: bytes) -> Job:
    """A connection with data in its SYN, without a cookie from before (RFC 7413)."""
    no_cookie = (socket.IPPROTO_TCP, 34, 1)  # TCP_FASTOPEN_NO_COOKIE, linux/tcp.h
    return Job("fastopen", [marker], to, port, options=[no_cookie])


def echo(to: str, marker: bytes, **more: object) -> Job:
    """ICMP or ICMPv6 echo request, as ping sends it."""
    return icmp(to, 128 if ":" in to else 8, marker, **more)


def icmp(to: str, kind: int, marker: bytes, code: int = 0, **more: object) -> Job:
    """Any message of ICMP, or of ICMPv6 for an IPv6 address, from a raw socket."""
    if ":" in to:  # the kernel adds the checksum
        data = bytes(ICMPv6Unknown(type=kind, code=code, cksum=0, msgbody=bytes(4) + marker))
        return Job("raw", [data], to, protocol=socket.IPPROTO_ICMPV6, **more)
    data = bytes(ICMP(type=kind, code=code) / Raw(marker))
    return Job("raw", [data], to, protocol=socket.IPPROTO_ICMP, **more)


def protocol(to: str, number: int, marker: bytes, **more: object) -> Job:
    """Another IP protocol, with zeros for its header."""
    return Job("raw", [bytes(24) + marker], to, protocol=number, **more)


def basic(to: str, marker: bytes, port: int = 443) -> list[Job]:
    """What every killswitch thinks of: UDP, TCP, echo."""
    return [udp(to, port, marker), tcp(to, port, marker), echo(to, marker)]


def dns(to: str, marker: bytes, **more: object) -> list[Job]:
    """A question over UDP and TCP, a connection to DNS over TLS; the name has the marker."""
    question = bytes(DNS(rd=1, qd=DNSQR(qname=marker + b".example.org")))
    framed = len(question).to_bytes(2) + question
    return [
        udp(to, 53, question, **more),
        tcp(to, 53, framed, **more),
        tcp(to, 853, marker, **more),
    ]


def ntp(to: str, marker: bytes, **more: object) -> Job:
    """A client's question for the time, from NTP's own port."""
    data = bytes(NTPHeader(mode=3)) + marker
    return udp(to, 123, data, **{"source": ("::" if ":" in to else "", 123), **more})


def dhcp(device: str, marker: bytes) -> list[Job]:
    """DHCP discover by an ordinary socket and, as clients do it at first, as a frame; DHCPv6."""
    discover = BOOTP(chaddr=bytes(6), xid=1, flags=0x8000) / DHCP(
        options=[("message-type", "discover"), ("hostname", marker), "end"]
    )
    nobody = IP(src="0.0.0.0", dst="255.255.255.255")  # noqa: S104 - an address of a packet
    packet = nobody / UDP(sport=68, dport=67) / discover
    broadcast = (socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    ordinary = {"device": device, "source": ("", 68), "options": [broadcast]}
    request = bytes(DHCP6_InfoRequest(trid=1) / DHCP6OptUnknown(optcode=65000, data=marker))
    return [
        Job("udp", [bytes(discover)], "255.255.255.255", 67, **ordinary),
        on_link(packet, device=device, to=BROADCAST),
        Job("udp", [request], "ff02::1:2", 547, device=device, source=("::", 546)),
    ]


def local(device: str, marker: bytes) -> list[Job]:
    """What desktops tell all around: mDNS, LLMNR, SSDP, WS-Discovery, NetBIOS, broadcasts."""
    broadcast = (socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    groups = [("224.0.0.251", 5353), ("ff02::fb", 5353), ("224.0.0.252", 5355), ("ff02::1:3", 5355)]
    groups += [("239.255.255.250", 1900), ("ff02::c", 1900), ("239.255.255.250", 3702)]
    groups += [("255.255.255.255", 137), ("255.255.255.255", 9999), ("ff02::1", 9999)]
    return [udp(to, port, marker, device=device, options=[broadcast]) for to, port in groups]


def neighbour(device: str, marker: bytes, source: str, to: str, hop_limit: int = 255) -> list[Job]:
    """Neighbour solicitation and advertisement, router solicitation, with data behind them."""
    header = IPv6(src=source, dst=to, hlim=hop_limit)
    messages = [ICMPv6ND_NS(tgt=to), ICMPv6ND_NA(tgt=source), ICMPv6ND_RS()]
    return [on_link(header / message / Raw(marker), device=device) for message in messages]


def arp(device: str, marker: bytes) -> Job:
    """An ARP request with data behind it."""
    request = bytes(ARP(psrc="192.0.2.1", pdst="192.0.2.2")) + marker
    return Job("link", [request], BROADCAST, protocol=0x0806, device=device)


def spoofed(to: str, port: int, marker: bytes, source: str) -> list[Job]:
    """UDP from an address that is not the qube's: by a transparent socket, as a whole packet."""
    level, option = socket.IPPROTO_IP, _IP_TRANSPARENT
    if ":" in to:
        level, option = socket.IPPROTO_IPV6, _IPV6_TRANSPARENT
    packet = _ip(source, to) / UDP(sport=40000, dport=port) / Raw(marker)
    return [
        udp(to, port, marker, source=(source, 40000), options=[(level, option, 1)]),
        with_header(packet),
    ]


def odd_tcp(source: str, to: str, port: int, marker: bytes) -> list[Packet]:
    """Segments of no connection: lone ACK, RST, SYN-ACK, FIN; all flags; none; SYN with data."""
    return [
        _ip(source, to) / TCP(sport=40000, dport=port, flags=flags, seq=1, ack=1) / Raw(marker)
        for flags in ("A", "R", "RA", "SA", "F", "PA", "FSRPAU", "", "S")
    ]


def fragments(source: str, to: str, port: int, marker: bytes) -> dict[str, list[Packet]]:
    """A datagram in pieces, each with the marker, in ways that have fooled filters."""
    six = ":" in to
    datagram = UDP(sport=40000, dport=port) / Raw(marker * 20)
    if six:
        pieces = fragment6(_ip(source, to) / IPv6ExtHdrFragment(id=77) / datagram, 48 + 96)
    else:
        pieces = fragment(_ip(source, to, id=77) / datagram, 96)
    again = _piece(source, to, 0, True, bytes(UDP(sport=40000, dport=port, len=8)) + marker * 8)
    return {
        "in order": pieces,
        "last first": pieces[::-1],
        "later ones only": pieces[1:],
        "first only": pieces[:1],
        "overlapping": [pieces[0], _piece(source, to, 8, True, marker * 8), *pieces[1:], again],
        "without ports": [_piece(source, to, 0, True, b""), *pieces[1:]],
        "atomic": [_piece(source, to, 0, False, bytes(datagram))],
    }


def routed(source: str, to: str, port: int, marker: bytes, by: str) -> list[Packet]:
    """UDP addressed to `by` with a source route on to `to`; other options and headers.

    The first four have such a route: the last two of IPv4's have one stop behind them.
    """
    datagram = UDP(sport=40000, dport=port) / Raw(marker)
    if ":" in to:
        headers = [
            IPv6ExtHdrRouting(type=0, addresses=[to]),
            IPv6ExtHdrRouting(type=2, addresses=[to]),
            IPv6ExtHdrHopByHop(options=[PadN(optdata=marker)]),
            IPv6ExtHdrDestOpt(options=[PadN(optdata=marker)]),
        ]
        return [_ip(source, by) / header / datagram for header in headers]
    last = socket.inet_aton(to)
    # Loose, strict, record route: RFC 791.  After the length stands where the next stop is.
    routes = [(kind, b"\x04" + last) for kind in (131, 137)]
    routes += [(kind, b"\x08" + socket.inet_aton(source) + last) for kind in (131, 137)]
    options = [
        IPOption(bytes([kind, 2 + len(route)]) + route)
        for kind, route in (*routes, (7, b"\x04" + last))
    ]
    return [_ip(source, by, options=[option]) / datagram for option in options]


def with_header(*packets: Packet, device: str = "") -> Job:
    """IP packets by a raw socket that takes whole headers; all have the first one's destination."""
    to = packets[0].dst
    nodefrag = [] if ":" in to else [(socket.IPPROTO_IP, _IP_NODEFRAG, 1)]
    return Job("header", _bytes(packets), to, device=device, options=nodefrag)


def on_link(*packets: Packet, device: str, to: str = GATEWAY, **more: object) -> Job:
    """IP packets by a packet socket: netfilter's IP hooks never see them.  to: a MAC address."""
    ethertype = 0x86DD if isinstance(packets[0], IPv6) else 0x0800
    return Job("link", _bytes(packets), to, protocol=ethertype, device=device, **more)


def other_frames(device: str, marker: bytes, packet: Packet) -> list[Job]:
    """Frames that are no IP: LLDP, EAPOL, PPPoE, MPLS; `packet` in a VLAN, its MAC made up."""
    kinds = (0x88CC, 0x888E, 0x8863, 0x8864, 0x8847, 0x88B5, 0x0842)
    plain = [Job("link", [marker * 4], GATEWAY, protocol=kind, device=device) for kind in kinds]
    tagged = Ether(src="02:00:00:00:00:07", dst="fe:ff:ff:ff:ff:ff") / Dot1Q(vlan=7) / packet
    return [*plain, Job("frame", [bytes(tagged)], device=device)]


def _bytes(packets: Sequence[Packet]) -> list[bytes]:
    return [bytes(packet) for packet in packets]


def _ip(source: str, to: str, **fields: object) -> Packet:
    return IPv6(src=source, dst=to) if ":" in to else IP(src=source, dst=to, **fields)


def _piece(source: str, to: str, offset: int, more: bool, data: bytes) -> Packet:
    """One fragment of the datagram 77; offset in bytes."""
    if ":" in to:
        position = IPv6ExtHdrFragment(nh=17, offset=offset // 8, m=int(more), id=77)
        return _ip(source, to) / position / Raw(data)
    flags = "MF" if more else 0
    return _ip(source, to, id=77, frag=offset // 8, flags=flags, proto=17) / Raw(data)
