# SPDX-License-Identifier: GPL-2.0-or-later
"""Which frames that left a VPN qube are leaks.

Allowed are ARP, neighbour solicitations and advertisements, and what goes to (protocol, address,
port) of an endpoint, its fragments included.  Everything else is a leak, and so is each frame that
carries the marker of the lab's own senders: what they send has no business outside the tunnel,
wherever it goes.  Nothing here is shared with the killswitch, so that it cannot be wrong in the
same way.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from qubes_vpn_formula.lab import packets
from qubes_vpn_formula.lab.capture import Captured, Frame
from qubes_vpn_formula.lab.packets import Packet, decode

_PROTOCOLS = {"tcp": packets.TCP, "udp": packets.UDP}
_NEIGHBOUR = (135, 136)  # ICMPv6 types, RFC 4861


@dataclass(frozen=True)
class Endpoint:
    """Where the tunnel's packets may go: `Endpoint("udp", "198.51.100.0/28", 51820)`.

    protocol: `tcp` or `udp`.  addresses: one, or a network.  port: the first; last: the last one,
        inclusive.
    """

    protocol: str
    addresses: str
    port: int
    last: int | None = None


@dataclass(frozen=True)
class Leak:
    """A frame that must not have left.  time: seconds since the capture's first frame."""

    time: float
    packet: Packet
    reason: str

    def __str__(self) -> str:
        return f"{self.time:.3f} s: {self.packet}: {self.reason}"


@dataclass(frozen=True)
class Verdict:
    """What a capture shows.

    frames: how many were judged.  trouble: why the capture proves nothing, else empty.
    """

    leaks: tuple[Leak, ...]
    frames: int
    trouble: str = ""

    @property
    def outcome(self) -> str:
        """`LEAK`, `error` or `closed`.  A leak counts even in a capture that is not complete."""
        if self.leaks:
            return "LEAK"
        return "error" if self.trouble else "closed"

    def __str__(self) -> str:
        if self.leaks:
            return f"LEAK ({len(self.leaks)} of {self.frames} frames), first at {self.leaks[0]}"
        return f"error: {self.trouble}" if self.trouble else "closed"


class Oracle:
    """Judges captures by the endpoints and the marker of one lab.

    Raises ValueError for an endpoint that is none.
    """

    def __init__(self, endpoints: Iterable[Endpoint], marker: bytes) -> None:
        if not marker:
            raise ValueError("an empty marker is in every frame")
        self._marker = marker
        self._exact: set[tuple[int, bytes, int]] = set()
        self._ranges = []
        for endpoint in endpoints:
            protocol = _PROTOCOLS.get(endpoint.protocol)
            if protocol is None:
                raise ValueError(f"{endpoint.protocol!r} is neither tcp nor udp")
            network = ipaddress.ip_network(endpoint.addresses)
            first, last = endpoint.port, endpoint.last or endpoint.port
            if network.num_addresses == 1 and first == last:
                self._exact.add((protocol, network.network_address.packed, first))
            else:
                low, high = network.network_address.packed, network.broadcast_address.packed
                self._ranges.append((protocol, low, high, first, last))

    def judge(self, captured: Captured) -> Verdict:
        """All leaks in a capture, in their order."""
        frames = [(frame, decode(frame.data)) for frame in captured.frames]
        opened = self._fragmented(packet for _, packet in frames)
        start = captured.frames[0].time if captured.frames else 0.0
        leaks = []
        for frame, packet in frames:
            reason = self._reason(frame, packet, opened)
            if reason:
                leaks.append(Leak(frame.time - start, packet, reason))
        return Verdict(tuple(leaks), len(frames), captured.trouble)

    def _fragmented(self, seen: Iterable[Packet]) -> set[tuple]:
        """The datagrams whose later fragments are allowed: all first ones went to an endpoint."""
        good, bad = set(), set()
        for packet in seen:
            if packet.more and not packet.offset:
                (bad if self._refused(packet) else good).add(packet.datagram)
        return good - bad

    def _reason(self, frame: Frame, packet: Packet, opened: set[tuple]) -> str:
        """Why a frame is a leak; empty when it is none."""
        if self._marker in frame.data:
            return "carries the marker"
        if packet.ethertype == packets.ARP:
            return ""
        if packet.offset and not packet.problem and packet.datagram in opened:
            return ""
        return self._refused(packet)

    def _refused(self, packet: Packet) -> str:
        if packet.problem:
            return packet.problem
        if packet.ethertype not in (packets.IPV4, packets.IPV6):
            return "neither ARP nor IP"
        if packet.routed:
            return "its destination is only a stop on the way"
        if packet.offset:
            return "no first fragment of it went to an endpoint"
        if _is_neighbour(packet) or self._is_endpoint(packet):
            return ""
        return "not to an endpoint"

    def _is_endpoint(self, packet: Packet) -> bool:
        protocol, address, port = packet.protocol, packet.destination, packet.destination_port
        if port is None:
            return False
        return (protocol, address, port) in self._exact or any(
            protocol == wanted
            and len(address) == len(low)
            and low <= address <= high
            and first <= port <= last
            for wanted, low, high, first, last in self._ranges
        )


def _is_neighbour(packet: Packet) -> bool:
    """A solicitation or advertisement that a neighbour would accept: RFC 4861, RFC 6980."""
    return (
        packet.ethertype == packets.IPV6
        and packet.protocol == packets.ICMPV6
        and packet.kind in _NEIGHBOUR
        and packet.code == 0
        and packet.hop_limit == 255
        and not packet.extended
    )
