# SPDX-License-Identifier: GPL-2.0-or-later
"""Endpoints as the solver needs them: a few as numbers, many as sets that it never looks into.

50,000 addresses are too many for a solver.  So of large sets it is only told that a key is in them
or not, and everything is proven for any elements; that the elements are the endpoints is compared
outside, interval by interval.
"""

import ipaddress
from collections.abc import Iterator, Sequence
from functools import lru_cache

import z3

from qubes_vpn_formula.prove.packet import TCP, UDP, Packet
from qubes_vpn_formula.prove.properties import to_one_of
from qubes_vpn_formula.prove.ruleset import Key, Ruleset
from qubes_vpn_formula.prove.statements import Names, membership
from qubes_vpn_formula.prove.terms import both, either
from qubes_vpn_net import Destination
from qubes_vpn_ruleset import TABLE

_SETS = {4: ("endpoints4", "ranges4"), 6: ("endpoints6", "ranges6")}
_PROTOCOLS = {"tcp": TCP, "udp": UDP}
#: So many are told to the solver one by one.
_FEW = 32


class Endpoints:
    """The endpoints of a qube whose rule set is *ruleset*.

    own: they are endpoints of that qube, and not of a client of its.  open_sets: sets that the
    solver does not look into.
    """

    def __init__(
        self, destinations: Sequence[Destination], ruleset: Ruleset, own: bool = True
    ) -> None:
        self._destinations, self._ruleset = destinations, ruleset
        self.open_sets: Names = frozenset()
        ours = ruleset.tables.get(("inet", TABLE))
        if own and ours and len(destinations) > _FEW:
            names = [name for sets in _SETS.values() for name in sets if name in ours.sets]
            self.open_sets = frozenset(("inet", TABLE, name) for name in names)

    def term(self, packet: Packet) -> z3.BoolRef:
        """Whether *packet* goes to an endpoint."""
        if not self.open_sets:
            return to_one_of(packet, self._destinations)
        found = []
        for version, names in _SETS.items():
            family = packet.is_ipv4() if version == 4 else packet.is_ipv6()
            for name in names:
                one = self._ruleset.set("inet", TABLE, name)
                host = packet.destination
                host = z3.Extract(31, 0, host) if version == 4 else host
                key = (host, packet.protocol, packet.destination_port)
                found.append(both(family, membership(one)(*key)))
        # That a set has TCP and UDP only is compared with the rest of its elements.
        return both(packet.protocol_known, either(*found))

    def differ(self, property: str) -> str:
        """How large sets differ from the endpoints, in words; empty when they do not.

        property: P2 (they hold nothing else) or P6 (they hold all).
        """
        if not self.open_sets:
            return ""
        for version, names in _SETS.items():
            wanted = [_box(one) for one in self._destinations if one.version == version]
            sets = [self._ruleset.set("inet", TABLE, name) for name in names]
            held = [key for one in sets for key in one.elements]
            inner, outer = (held, wanted) if property == "P2" else (wanted, held)
            for box in _uncovered(inner, outer):
                what = "no endpoint" if property == "P2" else "an endpoint that no set has"
                return f"{_words(box, version)} is {what}"
        return ""


@lru_cache(1 << 17)  # two properties of each rule set want the same
def _box(one: Destination) -> Key:
    network = ipaddress.ip_network(one.host)
    protocol = _PROTOCOLS[one.proto]
    hosts = (int(network.network_address), int(network.broadcast_address))
    return (hosts, (protocol, protocol), (one.first, one.last))


def _uncovered(boxes: Sequence[Key], cover: Sequence[Key]) -> Iterator[Key]:
    """What of *boxes* is in none of *cover*.  A point in one list is found at once in the other."""
    points = {box for box in cover if all(low == high for low, high in box)}
    wide = [box for box in cover if box not in points]
    for box in boxes:
        if box in points:
            continue
        rest = _without(box, wide)
        if rest and points:
            # Small prefixes and ranges are written out into points.
            rest = [one for part in rest for one in _beside(part, points)]
        yield from rest


def _without(box: Key, cover: Sequence[Key]) -> list[Key]:
    """The parts of *box* that no box of *cover* has."""
    rest = [box]
    for other in cover:
        rest = [part for one in rest for part in _cut(one, other)]
    return rest


def _cut(box: Key, other: Key) -> list[Key]:
    """*box* without *other*, as boxes."""
    if any(high < o_low or o_high < low
           for (low, high), (o_low, o_high) in zip(box, other, strict=True)):  # fmt: skip
        return [box]
    parts = []
    for place, ((low, high), (o_low, o_high)) in enumerate(zip(box, other, strict=True)):
        for side in ((low, o_low - 1), (o_high + 1, high)):
            if side[0] <= side[1]:
                parts.append((*box[:place], side, *box[place + 1 :]))
        box = (*box[:place], (max(low, o_low), min(high, o_high)), *box[place + 1 :])
    return parts


def _beside(box: Key, points: set[Key]) -> Iterator[Key]:
    """The points of a small *box* that are not in *points*; a large one as it is."""
    (low, high), (protocol, _), (first, last) = box
    if (high - low + 1) * (last - first + 1) > 4096:
        yield box
        return
    for host in range(low, high + 1):
        for port in range(first, last + 1):
            point = ((host, host), (protocol, protocol), (port, port))
            if point not in points:
                yield point


def _words(box: Key, version: int) -> str:
    (low, _), (protocol, _), (port, _) = box
    address = ipaddress.IPv4Address(low) if version == 4 else ipaddress.IPv6Address(low)
    return f"{address} . {'tcp' if protocol == TCP else 'udp'} . {port}"
