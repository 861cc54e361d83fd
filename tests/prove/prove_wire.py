# SPDX-License-Identifier: GPL-2.0-or-later
"""One concrete packet: its bytes for the kernel, and its fields for the model."""

import ipaddress
import struct
from dataclasses import dataclass, replace
from typing import Any

from qubes_vpn_formula.prove.packet import ICMP, ICMPV6, IPV4, IPV6, PORTED, TCP, UDP

_DESTINATION_OPTIONS, _ROUTING = 60, 43
#: Of IPv4's options, those that send a packet by other hosts; one byte fills up, one ends the list.
LOOSE, STRICT, _END, FILL = 131, 137, 0, 1
_WHOLE = 2  # of IPv4's three flags of fragments


@dataclass(frozen=True)
class Wire:
    """ident: tells it from others; IPv4's identification, IPv6's flow label.

    first, second: 16 bits each of the transport header; the second of ICMP is its checksum.
    echo: an echo's identifier.  body: what follows all headers.  extensions: of IPv6, 43 or 60.
    options: of IPv4, a multiple of 4 bytes.  whole: of IPv4, it may not be cut (DF).
    cut: bytes of the transport header that are there, None for all of them.
    """

    ident: int
    source: str
    destination: str
    protocol: int
    first: int
    second: int = 0
    flags: int = 0
    hop_limit: int = 64
    extensions: tuple[int, ...] = ()
    options: bytes = b""
    whole: bool = False
    cut: int | None = None
    echo: int = 1
    body: bytes = b"abcdefgh"

    @property
    def version(self) -> int:
        return 6 if ":" in self.source else 4

    def reversed(self, ident: int) -> "Wire":
        """An answer to it."""
        first, second = self.second, self.first
        if self.protocol in (ICMP, ICMPV6):
            first, second = {0x0800: 0, 0x8000: 0x8100}[self.first], 0
        return replace(
            self,
            ident=ident,
            source=self.destination,
            destination=self.source,
            first=first,
            second=second,
            flags=0x12 if self.protocol == TCP else 0,
            extensions=(),
            options=b"",
        )

    def error(self, ident: int, router: str) -> "Wire":
        """A message of *router*'s to its sender that it cannot be reached, which quotes it."""
        protocol, first = (ICMP, 0x0301) if self.version == 4 else (ICMPV6, 0x0103)
        return Wire(
            ident,
            router,
            self.source,
            protocol,
            first,
            body=b"\0" * 4 + replace(self, extensions=(), options=b"").data()[:60],
        )

    def data(self) -> bytes:
        """The IP packet."""
        transport = self.transport()
        return (self._ipv4 if self.version == 4 else self._ipv6)(transport)

    def transport(self) -> bytes:
        middle = struct.pack("!HH", self.first, self.second)
        if self.protocol == TCP:
            data = middle + struct.pack("!IIBBHHH", 1, 1, 5 << 4, self.flags, 1000, 0, 0)
            data = _summed(data, 16, self._pseudo(len(data)))
        elif self.protocol == UDP:
            length = 8 + len(self.body)
            data = middle + struct.pack("!HH", length, 0) + self.body
            data = _summed(data, 6, self._pseudo(length))
        elif self.protocol in (ICMP, ICMPV6):
            echo = struct.pack("!HH", self.echo, 1)
            body = self.body if self.first in (0x0301, 0x0103) else echo + self.body
            data = struct.pack("!HH", self.first, 0) + body
            data = _summed(data, 2, self._pseudo(len(data)) if self.protocol == ICMPV6 else b"")
        else:
            data = middle + self.body
        return data[: self.cut]

    def _pseudo(self, length: int) -> bytes:
        ends = _packed(self.source) + _packed(self.destination)
        if self.version == 4:
            return ends + struct.pack("!BBH", 0, self.protocol, length)
        return ends + struct.pack("!IHBB", length, 0, 0, self.protocol)

    def _ipv4(self, transport: bytes) -> bytes:
        words, uncut = 5 + len(self.options) // 4, _WHOLE << 13 if self.whole else 0
        head = struct.pack(
            "!BBHHHBBH", 4 << 4 | words, 0, words * 4 + len(transport), self.ident, uncut,
            self.hop_limit, self.protocol, 0,
        ) + _packed(self.source) + _packed(self.destination) + self.options  # fmt: skip
        return _summed(head, 10, b"") + transport

    def _ipv6(self, transport: bytes) -> bytes:
        chain = [*self.extensions, self.protocol]
        extended = b""
        for kind, following in zip(self.extensions, chain[1:], strict=True):
            if kind == _ROUTING:
                extended += struct.pack("!BBBBI", following, 2, 2, 0, 0) + b"\x20\x01" + bytes(14)
            else:
                extended += struct.pack("!BBBBI", following, 0, 1, 4, 0)
        length = len(extended) + len(transport)
        head = struct.pack("!IHBB", 6 << 28 | self.ident, length, chain[0], self.hop_limit)
        return head + _packed(self.source) + _packed(self.destination) + extended + transport

    def fields(self) -> dict[str, Any]:
        """The values of the model's fields that are the packet's own."""
        data = self.transport()
        first, second = struct.unpack("!HH", data[:4].ljust(4, b"\0"))
        return {
            "ethertype": IPV4 if self.version == 4 else IPV6,
            "source": self.source,
            "destination": self.destination,
            "header_words": 5 + len(self.options) // 4 if self.version == 4 else 0,
            "loose_route": _routed(self.options) == LOOSE,
            "strict_route": _routed(self.options) == STRICT,
            "next_header": [*self.extensions, self.protocol][0] if self.version == 6 else 0,
            "routing_header": _ROUTING in self.extensions,
            "hop_limit": self.hop_limit,
            "protocol_known": True,
            "protocol": self.protocol,
            "later_fragment": False,
            "fragment_flags": _WHOLE if self.whole else 0,
            "fragment_offset": 0,
            "transport_bytes": len(data),
            "source_port": first,
            "destination_port": second,
            "tcp_flags": self.flags,
        }

    def original(self) -> dict[str, Any]:
        """What conntrack keeps of it, if it is the first of a flow."""
        ports = self.protocol in PORTED
        data = self.transport().ljust(2, b"\0")
        return {
            "original_source": self.source,
            "original_destination": self.destination,
            "original_protocol": self.protocol,
            "original_source_port": self.first if ports else self.echo,
            "original_destination_port": self.second if ports else data[0] << 8 | data[1],
        }


def _routed(options: bytes) -> int:
    """The source route that the kernel finds; it overlooks one of which a stop was used."""
    place = 0
    while place < len(options) and options[place] != _END:
        kind = options[place]
        if kind in (LOOSE, STRICT):
            return kind if options[place + 2] == 4 else 0
        place += 1 if kind == FILL else options[place + 1]
    return 0


@dataclass(frozen=True)
class Seen:
    """What came out of the kernel: addresses as texts, the transport header's first 32 bits."""

    version: int
    ident: int
    source: str
    destination: str
    protocol: int
    ports: tuple[int, int]


def read(data: bytes) -> Seen | None:
    """An IP packet as it came out; None for what is none."""
    version = data[0] >> 4 if data else 0
    if version == 4:
        head = (data[0] & 15) * 4
        ident, source, destination = struct.unpack("!H", data[4:6])[0], data[12:16], data[16:20]
        protocol, rest = data[9], data[head:]
    elif version == 6:
        ident = struct.unpack("!I", data[:4])[0] & 0xFFFFF
        source, destination = data[8:24], data[24:40]
        protocol, rest = data[6], data[40:]
        while protocol in (_DESTINATION_OPTIONS, _ROUTING):
            protocol, rest = rest[0], rest[8 + rest[1] * 8 :]
    else:
        return None
    ports = struct.unpack("!HH", rest[:4].ljust(4, b"\0"))
    return Seen(
        version,
        ident,
        str(ipaddress.ip_address(source)),
        str(ipaddress.ip_address(destination)),
        protocol,
        ports,
    )


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def _summed(data: bytes, place: int, pseudo: bytes) -> bytes:
    """*data* with the internet checksum at *place*."""
    text = pseudo + data
    total = sum(struct.unpack(f"!{(len(text) + 1) // 2}H", text + b"\0" * (len(text) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:place] + struct.pack("!H", ~total & 0xFFFF or 0xFFFF) + data[place + 2 :]
