# SPDX-License-Identifier: GPL-2.0-or-later
"""A packet's whole way through a qube: hook after hook."""

from dataclasses import dataclass, fields

import z3

from qubes_vpn_formula.prove import translation
from qubes_vpn_formula.prove.packet import STATES, Packet, value
from qubes_vpn_formula.prove.ruleset import Chain, Ruleset
from qubes_vpn_formula.prove.statements import Names
from qubes_vpn_formula.prove.terms import FALSE, TRUE, both, either
from qubes_vpn_formula.prove.walk import Outcome, walk

_DEVICE = ("index", "name", "kind", "group")


@dataclass(frozen=True)
class Way:
    """A packet's way.

    hooks: name and outcome of each, in order.  through: it got to the end.  packet: how it looks
    there.
    """

    hooks: tuple[tuple[str, Outcome], ...]
    through: z3.BoolRef
    packet: Packet


def forwarded(ruleset: Ruleset, packet: Packet, open_sets: Names = frozenset()) -> Way:
    """In by one device and out by another: ingress, prerouting, forward, postrouting, egress.

    Which device it goes out by is the packet's out_*: whatever routing decides is allowed.  Where
    rules offload flows, any packet of TCP or UDP may be of one: it meets nothing but egress.
    """
    way = _Way(ruleset, open_sets)
    way.pass_("ingress", without("out", packet))
    way.pass_("prerouting", without("out", way.packet))
    way.packet = _with(way.packet, packet, "out")
    alive = z3.UGT(way.packet.hop_limit, 1)
    way.pass_("forward", way.packet.having(hop_limit=way.packet.hop_limit - 1), alive)
    way.pass_("postrouting", way.packet)
    offloaded = _offloaded(ruleset, packet)
    if not z3.is_false(offloaded):
        way.through = either(way.through, offloaded)
        way.packet = _either(offloaded, _as_offloaded(packet), way.packet)
    return _out(way)


def sent(ruleset: Ruleset, packet: Packet, open_sets: Names = frozenset()) -> Way:
    """The qube's own: output, postrouting, egress.

    What the output hook translates, and where it has a chain of type route what has another mark,
    is routed again: it may go out by any device.
    """
    way = _Way(ruleset, open_sets)
    way.pass_("output", without("in", packet))
    kinds = {one.base.kind for one in _at(ruleset, "output")}
    if kinds - {"filter"}:
        again, now = Packet.any("rerouted"), way.packet
        marked = now.mark != packet.mark if "route" in kinds else FALSE
        changed = either(now.destination != packet.destination, marked)
        again = _with(now, again, "out").having(out_address=again.out_address)
        way.packet = _either(changed, again, now)
    way.pass_("postrouting", way.packet)
    return _out(way)


def received(ruleset: Ruleset, packet: Packet, open_sets: Names = frozenset()) -> Way:
    """For the qube itself: ingress, prerouting, input."""
    way = _Way(ruleset, open_sets)
    for hook in ("ingress", "prerouting", "input"):
        way.pass_(hook, without("out", way.packet or packet))
    return way.done()


class _Way:
    def __init__(self, ruleset: Ruleset, open_sets: Names) -> None:
        self._ruleset = ruleset
        self._open_sets = open_sets
        self._hooks: list[tuple[str, Outcome]] = []
        self.through = TRUE
        self.packet: Packet | None = None

    def pass_(self, hook: str, packet: Packet, given: z3.BoolRef = TRUE) -> None:
        came = both(self.through, given)
        outcome = walk(self._ruleset, hook, packet, came, self._open_sets)
        self._hooks.append((hook, outcome))
        self.through, self.packet = outcome.accepted, outcome.packet

    def done(self) -> Way:
        return Way(tuple(self._hooks), self.through, self.packet)


def without(side: str, packet: Packet) -> Packet:
    """*packet* where there is no device of this side, in or out."""
    return packet.having(**{f"{side}_{field}": 0 for field in _DEVICE})


def _with(packet: Packet, other: Packet, side: str) -> Packet:
    names = [f"{side}_{field}" for field in _DEVICE]
    return packet.having(**{name: getattr(other, name) for name in names})


def _out(way: _Way) -> Way:
    """Through egress: what is too long for the device is cut before."""
    cut = Packet.any("cut")
    packet = without("in", way.packet).having(
        later_fragment=cut.later_fragment, transport_bytes=cut.transport_bytes
    )
    way.pass_("egress", packet)
    return way.done()


def _at(ruleset: Ruleset, hook: str) -> list[Chain]:
    return [one for one in ruleset.chains() if one.base and one.base.hook == hook]


def _offloaded(ruleset: Ruleset, packet: Packet) -> z3.BoolRef:
    """Whether a packet may be of an offloaded flow."""
    devices = {
        name
        for table in ruleset.tables.values()
        for names in table.flowtables.values()
        for name in names
    }
    if not any("flow" in one for rule in ruleset.rules() for one in rule.statements):
        return FALSE
    came = either(*[packet.in_name == value("in_name", name) for name in sorted(devices)])
    return both(came, translation.has_ports(packet), z3.Bool("its flow is offloaded"))


def _as_offloaded(packet: Packet) -> Packet:
    """Translated as its flow is, and with no flow to be seen."""
    return packet.having(
        state=STATES["invalid"],
        **{
            field: getattr(packet, f"flow_new_{field}")
            for field in ("source", "destination", "source_port", "destination_port")
        },
    )


def _either(truth: z3.BoolRef, one: Packet, other: Packet) -> Packet:
    names = [field.name for field in fields(one)]
    return Packet(
        **{name: z3.If(truth, getattr(one, name), getattr(other, name)) for name in names}
    )
