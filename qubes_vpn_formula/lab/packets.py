# SPDX-License-Identifier: GPL-2.0-or-later
"""What a captured frame is: strict, because a killswitch is judged by it.

Only what is needed to tell whom a frame is for.  What cannot be read is never guessed at:
`problem` then says why.  (scapy, with which the lab makes its packets, reads some 4,000 frames a
second, too few for a flood, and guesses; the tests hold this module against what scapy makes.)
"""

import ipaddress
import struct
from dataclasses import dataclass

ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ICMP, IGMP, TCP, UDP, ICMPV6 = 1, 2, 6, 17, 58

#: Ethernet types and IP protocols that a reader knows by name.
_ETHERTYPES = {ARP: "ARP", IPV4: "IPv4", IPV6: "IPv6", 0x8100: "VLAN", 0x888E: "EAPOL"}
_PROTOCOLS = {ICMP: "ICMP", IGMP: "IGMP", 4: "IPv4 in IP", TCP: "TCP", UDP: "UDP"}
_PROTOCOLS |= {41: "IPv6 in IP", 47: "GRE", 50: "ESP", 51: "AH", ICMPV6: "ICMPv6"}
_PROTOCOLS |= {132: "SCTP", 136: "UDP-Lite"}
_ICMP = {(ICMP, 0): "echo reply", (ICMP, 3): "unreachable", (ICMP, 8): "echo request"}
_ICMP |= {(ICMPV6, 1): "unreachable", (ICMPV6, 2): "packet too big", (ICMPV6, 128): "echo request"}
_ICMP |= {(ICMPV6, 129): "echo reply", (ICMPV6, 133): "router solicitation"}
_ICMP |= {(ICMPV6, 134): "router advertisement", (ICMPV6, 135): "neighbour solicitation"}
_ICMP |= {(ICMPV6, 136): "neighbour advertisement", (ICMPV6, 143): "multicast listener report"}
#: Ports that tell a reader at once what it was.
_SERVICES = {53: "DNS", 67: "DHCP", 123: "NTP", 547: "DHCPv6", 853: "DNS over TLS"}
_SERVICES |= {1900: "SSDP", 5353: "mDNS"}
_TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")

_LOOSE_ROUTE, _STRICT_ROUTE = 131, 137  # IPv4 options, RFC 791
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60  # IPv6 extension headers, RFC 8200


@dataclass(slots=True)
class Packet:
    """One frame, as far as it could be read.

    source, destination: IP addresses, 4 or 16 bytes; empty in other frames.
    offset: bytes before this fragment's own; more: fragments follow.
    kind, code: ICMP's or ICMPv6's.  extended: has IPv6 extension headers.
    routed: carries a source route, so that its destination is only a stop on the way.
    problem: why the rest of the frame could not be read; empty when it could.
    """

    ethertype: int
    size: int
    source: bytes = b""
    destination: bytes = b""
    protocol: int | None = None
    hop_limit: int = 0
    identity: int = 0
    offset: int = 0
    more: bool = False
    source_port: int | None = None
    destination_port: int | None = None
    flags: int = 0
    kind: int | None = None
    code: int = 0
    extended: bool = False
    routed: bool = False
    problem: str = ""

    @property
    def datagram(self) -> tuple[bytes, bytes, int | None, int]:
        """What the fragments of one datagram share (RFC 791, RFC 8200)."""
        return self.source, self.destination, self.protocol, self.identity

    def __str__(self) -> str:
        """One line for people: `UDP from 10.137.0.7:4000 to 9.9.9.9:53 (DNS), 67 bytes`."""
        words = [*self._what(), f"from {self._end(self.source, self.source_port)}"]
        words.append(f"to {self._end(self.destination, self.destination_port)}")
        service = _SERVICES.get(self.destination_port)
        return " ".join(words if self.source else words[:-2]) + (
            (f" ({service})" if service else "")
            + f", {self.size} bytes"
            + (f", {self.problem}" if self.problem else "")
        )

    def _what(self) -> list[str]:
        if self.protocol is None:
            return [_ETHERTYPES.get(self.ethertype, f"Ethernet type {self.ethertype:#06x}")]
        words = [_PROTOCOLS.get(self.protocol, f"IP protocol {self.protocol}")]
        if self.kind is not None:
            words.append(_ICMP.get((self.protocol, self.kind), f"type {self.kind}"))
        set_ = [name for bit, name in enumerate(_TCP_FLAGS) if self.flags & 1 << bit]
        if set_:
            words.append("+".join(set_))
        if self.offset:
            words.append(f"fragment at byte {self.offset}")
        elif self.more:
            words.append("first fragment")
        if self.routed:
            words.append("source-routed")
        return words

    @staticmethod
    def _end(address: bytes, port: int | None) -> str:
        text = str(ipaddress.ip_address(address)) if address else "?"
        if port is None:
            return text
        return f"[{text}]:{port}" if len(address) == 16 else f"{text}:{port}"


def decode(frame: bytes) -> Packet:
    """Reads an Ethernet frame.  Never raises: what is wrong is in `problem`."""
    if len(frame) < 14:
        return Packet(0, len(frame), problem="not a whole Ethernet header")
    packet = Packet(frame[12] << 8 | frame[13], len(frame))
    try:
        if packet.ethertype == IPV4:
            _ipv4(packet, frame, 14)
        elif packet.ethertype == IPV6:
            _ipv6(packet, frame, 14)
    except (struct.error, IndexError):
        packet.problem = "ends in the middle of a header"
    return packet


def _ipv4(packet: Packet, frame: bytes, at: int) -> None:
    first, identity, fragment, hops, protocol = struct.unpack_from("!B3xHHBB", frame, at)
    packet.source, packet.destination = frame[at + 12 : at + 16], frame[at + 16 : at + 20]
    packet.protocol, packet.hop_limit, packet.identity = protocol, hops, identity
    packet.offset, packet.more = (fragment & 0x1FFF) * 8, bool(fragment & 0x2000)
    length = (first & 0x0F) * 4
    if first >> 4 != 4 or length < 20:
        packet.problem = "not a valid IPv4 header"
        return
    if length > 20:
        packet.routed = _has_source_route(frame[at + 20 : at + length])
    _transport(packet, frame, at + length)


def _has_source_route(options: bytes) -> bool:
    at = 0
    while at < len(options) and options[at]:  # 0 ends the list
        if options[at] in (_LOOSE_ROUTE, _STRICT_ROUTE):
            return True
        at += 1 if options[at] == 1 else max(options[at + 1], 2)  # 1 is one byte of padding
    return False


def _ipv6(packet: Packet, frame: bytes, at: int) -> None:
    first, following, packet.hop_limit = struct.unpack_from("!B5xBB", frame, at)
    packet.source, packet.destination = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
    packet.protocol = following
    if first >> 4 != 6 or len(packet.destination) < 16:
        packet.problem = "not a valid IPv6 header"
        return
    at += 40
    while following in (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION):
        extension, (following, length) = following, struct.unpack_from("!BB", frame, at)
        packet.protocol, packet.extended = following, True
        if extension == _FRAGMENT:
            position, packet.identity = struct.unpack_from("!2xHI", frame, at)
            packet.offset, packet.more = position & 0xFFF8, bool(position & 1)
            at += 8
            if packet.offset:
                return  # what follows is the middle of something
        else:
            packet.routed |= extension == _ROUTING
            at += (length + 1) * 8
    _transport(packet, frame, at)


def _transport(packet: Packet, frame: bytes, at: int) -> None:
    if packet.offset:
        return
    if packet.protocol in (TCP, UDP):
        packet.source_port, packet.destination_port = struct.unpack_from("!HH", frame, at)
    if packet.protocol == TCP:
        packet.flags = frame[at + 13] & 0x3F
    if packet.protocol in (ICMP, ICMPV6):
        packet.kind, packet.code = frame[at], frame[at + 1]
