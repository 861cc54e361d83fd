# SPDX-License-Identifier: GPL-2.0-or-later
"""A packet's whole way through a qube: hook after hook."""

from dataclasses import dataclass, fields

import z3

from qubes_vpn_formula.prove import flow
from qubes_vpn_formula.prove.notmodelled import NotModelled
from qubes_vpn_formula.prove.packet import Packet, value
from qubes_vpn_formula.prove.ruleset import Chain, Ruleset, Table
from qubes_vpn_formula.prove.statements import Names
from qubes_vpn_formula.prove.terms import FALSE, TRUE, both, either, equal
from qubes_vpn_formula.prove.walk import Outcome, offloads, walk

_DEVICE = ("index", "name", "kind", "group")
_MOST_FLOWTABLES = 8
#: What fragmentation changes.
CUT = ("later_fragment", "fragment_flags", "fragment_offset", "transport_bytes")


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

    Which device it goes out by is the packet's out_*: whatever routing decides is allowed.  One of
    a flow that rules have offloaded may meet nothing but egress.
    """
    way = _by_the_rules(ruleset, packet, open_sets)
    tables = [(one, name) for one in ruleset.tables.values() for name in one.flowtables]
    if len(tables) > _MOST_FLOWTABLES:
        raise NotModelled("forward", f"more than {_MOST_FLOWTABLES} flowtables")
    offloaded = either(*[_offloaded(ruleset, *one, packet, open_sets) for one in tables])
    if not z3.is_false(offloaded):
        way.through = either(way.through, offloaded)
        way.packet = _either(offloaded, flow.offloaded(packet), way.packet)
    return _out(way)


def _by_the_rules(ruleset: Ruleset, packet: Packet, open_sets: Names) -> "_Way":
    """From ingress to postrouting."""
    way = _Way(ruleset, open_sets)
    way.pass_("ingress", without("out", packet))
    way.pass_("prerouting", without("out", way.packet))
    way.packet = _with(way.packet, packet, "out")
    alive = z3.UGT(way.packet.hop_limit, 1)
    way.pass_("forward", way.packet.having(hop_limit=way.packet.hop_limit - 1), alive)
    way.pass_("postrouting", way.packet)
    return way


def _offloaded(
    ruleset: Ruleset, table: Table, name: str, packet: Packet, open_sets: Names
) -> z3.BoolRef:
    """Whether *packet* may be of a flow in the flowtable *name*.

    Its first packet passed the rules, and a later one met a rule that puts it there
    (net/netfilter/nft_flow_offload.c).  Of those rules only the tables count that were there when
    the flowtable was made; what has changed in them since is taken for having cut its flows.
    """
    before = {
        key: one
        for key, one in ruleset.tables.items()
        if one is table or 0 < one.handle < table.handle
    }
    where = f"{table.family} {table.name} {name}"
    first, later = Packet.any(f"{where}: the first"), Packet.any(f"{where}: the one that adds")
    opening = _by_the_rules(Ruleset(before), first, open_sets)
    adding = _by_the_rules(Ruleset(before), later, open_sets)
    words = offloads(f"@{name}")
    adds = [
        step.met
        for _hook, outcome in adding.hooks
        for step in outcome.trace
        if step.what == words
        if (step.where.family, step.where.table) == (table.family, table.name)
    ]
    came = [equal(packet.in_name, value("in_name", one)) for one in table.flowtables[name]]
    return both(
        either(*adds),
        either(*came),
        flow.goes_on(packet),
        flow.goes_on(later),
        later.goes_through(),
        flow.begins(first),
        first.goes_through(),
        opening.through,
        flow.same(packet, later),
        flow.began(later, first, opening.packet),
    )


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
        self.hooks: list[tuple[str, Outcome]] = []
        self.through = TRUE
        self.packet: Packet | None = None

    def pass_(self, hook: str, packet: Packet, given: z3.BoolRef = TRUE) -> None:
        came = both(self.through, given)
        outcome = walk(self._ruleset, hook, packet, came, self._open_sets)
        self.hooks.append((hook, outcome))
        self.through, self.packet = outcome.accepted, outcome.packet

    def done(self) -> Way:
        return Way(tuple(self.hooks), self.through, self.packet)


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
        **{name: getattr(cut, name) for name in CUT},
    )
    way.pass_("egress", packet)
    return way.done()


def _at(ruleset: Ruleset, hook: str) -> list[Chain]:
    return [one for one in ruleset.chains() if one.base and one.base.hook == hook]


def _either(truth: z3.BoolRef, one: Packet, other: Packet) -> Packet:
    names = [field.name for field in fields(one)]
    return Packet(
        **{name: z3.If(truth, getattr(one, name), getattr(other, name)) for name in names}
    )
