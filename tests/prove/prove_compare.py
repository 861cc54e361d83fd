# SPDX-License-Identifier: GPL-2.0-or-later
"""What the model says of concrete packets, compared with what the kernel did to them."""

import ipaddress
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import z3
from prove_bench import DEVICES, Bench, Device, Observed
from prove_wire import Seen, Wire

from qubes_vpn_formula.prove import path
from qubes_vpn_formula.prove.expressions import index_of
from qubes_vpn_formula.prove.packet import ICMP, ICMPV6, PORTED, TCP, Packet, value
from qubes_vpn_formula.prove.ruleset import Rule, Ruleset

_BY_NAME = {one.name: one for one in DEVICES}
_OWN = {address for one in DEVICES for address in (one.own4, one.own6)}


@dataclass
class Case:
    """A packet of a salvo.  device: None for the qube's own.  fields: of its flow."""

    device: str | None
    wire: Wire
    fields: dict[str, Any]


@dataclass
class Model:
    """The ways through one rule set, as terms about one packet; and a judge of concrete ones."""

    ruleset: Ruleset
    bench: Bench
    packet: Packet = field(default_factory=Packet.any)
    again: Packet = field(default_factory=lambda: Packet.any("rerouted"))
    cut: Packet = field(default_factory=lambda: Packet.any("cut"))

    def __post_init__(self) -> None:
        self._ways = {
            "forwarded": path.forwarded(self.ruleset, self.packet),
            "received": path.received(self.ruleset, self.packet),
            "sent": path.sent(self.ruleset, self.packet),
        }
        self.counted = {
            (rule.family, rule.table, rule.handle): rule.text
            for rule in self.ruleset.rules()
            if any("counter" in statement for statement in rule.statements)
        }

    def disagreement(self, case: Case, seen: Observed) -> str | None:
        """What the model says otherwise than the kernel of one packet; adds to `hits`."""
        kind = "sent" if case.device is None else "forwarded"
        values = self._values(case, seen)
        routed = self._routed(kind, values)
        if routed is None:
            return None  # chance decides where it goes: no statement
        kind, values = routed
        way = self._ways[kind]
        steps = [
            (hook, step)
            for hook, outcome in way.hooks
            for step in outcome.trace
            if isinstance(step.where, Rule)
        ]
        ends = [way.packet.source, way.packet.destination]
        ends += [way.packet.source_port, way.packet.destination_port]
        terms = [way.through, *ends, *[step.met for _hook, step in steps]]
        found = self._at(terms, values)
        left = [(name, one) for name, one in seen.left if _is(one, case.wire)]
        if kind == "received":
            came = case.wire.ident in seen.delivered
            observed: z3.BoolRef = found[0] if came else z3.Not(found[0])
            told = "delivered" if came else "not delivered"
        elif left:
            if len(left) != 1:
                return f"{len(left)} copies left"
            name, one = left[0]
            observed = z3.And(found[0], self._looks(found[1:5], one), self._by(kind, values, name))
            told = f"left by {name} as {one}"
        else:
            observed, told = z3.Not(found[0]), "did not leave"
        observed = z3.simplify(observed)
        if not z3.is_true(observed):
            solver = z3.Solver()
            solver.add(observed)
            if solver.check() != z3.sat:
                return f"the kernel: {told}; the model: {found[:5]} ({kind})"
        for (_hook, step), met in zip(steps, found[5:], strict=True):
            place = step.where.family, step.where.table, step.where.handle
            if z3.is_true(met):
                self.hits[place] += 1
            elif not z3.is_false(met):
                self.uncertain.add(place)
        return None

    def start(self) -> None:
        """A new salvo."""
        self.hits: Counter[tuple[str, str, int]] = Counter()
        self.uncertain: set[tuple[str, str, int]] = set()

    def miscounted(self, seen: Observed) -> list[str]:
        """The rules that the kernel has met more or less often than the model."""
        if self.uncertain:
            return []
        return [
            f"{place}: met {seen.hits.get(place, 0)} times, by the model {self.hits[place]}: {text}"
            for place, text in sorted(self.counted.items())
            if seen.hits.get(place, 0) != self.hits[place]
        ]

    def _values(self, case: Case, seen: Observed) -> dict[str, Any]:
        ident = case.wire.ident
        left = [one.ports[0] for _name, one in seen.left if _is(one, case.wire)]
        values = {
            **case.wire.fields(),
            "mark": 0,
            "flow_mark": seen.mark.get(ident, 0),
            # A packet that was dropped before tracking has none that anything could depend on.
            "state": seen.state.get(ident, 8),
            "first": True,
            "reply": False,
            **case.wire.original(),
            "has_socket": case.device is None,
            "user": 0,
            "group": 0,
            "flow_new_source": case.wire.source,
            "flow_new_destination": case.wire.destination,
            "flow_new_source_port": case.wire.first,
            "flow_new_destination_port": case.wire.second,
            # The kernel's to choose, where two translated flows would be one.
            "free_port": left[0] if left else case.wire.fields()["source_port"],
            "in_address": 0,
            "out_address": 0,
            **case.fields,
        }
        if case.device is not None:
            one = _BY_NAME[case.device]
            values |= self._device("in", one)
            values["in_address"] = one.own4 if case.wire.version == 4 else one.own6
        else:
            values |= {"in_index": 0, "in_name": "", "in_kind": "", "in_group": 0}
        return values

    def _device(self, side: str, one: Device) -> dict[str, Any]:
        return {
            f"{side}_index": self.bench.index(one.name),
            f"{side}_name": one.name,
            f"{side}_kind": one.kind,
            f"{side}_group": one.group,
        }

    def _routed(self, kind: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
        """The way that it goes by its destination then, and the device."""
        version = 4 if values["ethertype"] == 0x0800 else 6
        if kind == "sent":
            values = self._going(values, values["destination"], version)
            term = self._ways["sent"].hooks[0][1].packet.destination
        else:
            term = dict(self._ways["forwarded"].hooks)["prerouting"].packet.destination
        [then] = self._at([term], values)
        if not z3.is_bv_value(then):
            return None
        kind_of = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
        destination = str(kind_of(then.as_long()))
        if kind == "sent":
            return kind, values | {
                "again": self._going({}, destination, version),
            }
        if destination in _OWN:
            return "received", values
        return kind, self._going(values, destination, version)

    def _going(self, values: dict[str, Any], destination: str, version: int) -> dict[str, Any]:
        one = route(destination)
        own = one.own4 if version == 4 else one.own6
        return values | self._device("out", one) | {"out_address": own}

    def _at(self, terms: list[z3.ExprRef], values: dict[str, Any]) -> list[z3.ExprRef]:
        values = dict(values)
        again = values.pop("again", {})
        pairs = [(getattr(self.packet, name), value(name, one)) for name, one in values.items()]
        pairs += [(getattr(self.again, name), value(name, one)) for name, one in again.items()]
        pairs += [(getattr(self.cut, name), value(name, values[name])) for name in path.CUT]
        pairs += [
            (index_of(one.name), z3.BitVecVal(self.bench.index(one.name), 32)) for one in DEVICES
        ]
        together = z3.Function("all", *[term.sort() for term in terms], z3.BoolSort())(*terms)
        return z3.simplify(z3.substitute(together, *pairs)).children()

    def _looks(self, ends: list[z3.ExprRef], one: Seen) -> z3.BoolRef:
        looks = [
            ends[0] == value("source", one.source),
            ends[1] == value("destination", one.destination),
        ]
        if one.protocol in PORTED:
            looks += [ends[2] == one.ports[0], ends[3] == one.ports[1]]
        return z3.And(looks)

    def _by(self, kind: str, values: dict[str, Any], name: str) -> z3.BoolRef:
        chosen = values.get("again", values) if kind == "sent" else values
        return z3.BoolVal(chosen["out_name"] == name)


def route(destination: str) -> Device:
    """The device for an address: the qube's own routes."""
    address = ipaddress.ip_address(destination)
    for one in DEVICES:
        net = ipaddress.ip_network(one.net4 if address.version == 4 else one.net6)
        if address in net:
            return one
    raise AssertionError(destination)


def _is(one: Seen, wire: Wire) -> bool:
    return (one.version, one.ident) == (wire.version, wire.ident)


def followers(case: Case, seen: Observed, idents) -> list[tuple[str, Case]]:
    """What may come after a flow's first packet that left: an answer, another, an error about it.

    Each with the name of its salvo.
    """
    left = [(name, one) for name, one in seen.left if _is(one, case.wire)]
    if len(left) != 1 or seen.state.get(case.wire.ident) != 8 or case.wire.cut is not None:
        return []
    name, one = left[0]
    wire = case.wire
    ports = wire.protocol in PORTED
    gone = replace(
        wire,
        source=one.source,
        destination=one.destination,
        first=one.ports[0] if ports else wire.first,
        second=one.ports[1] if ports else wire.second,
        extensions=(),
        options=b"",
    )
    old = {"first": False, **wire.original()}
    back = {
        **old,
        "reply": True,
        "flow_new_destination": wire.source,
        "flow_new_destination_port": wire.first,
        "flow_new_source": wire.destination,
        "flow_new_source_port": wire.second,
    }
    onward = {
        **old,
        "flow_new_source": one.source,
        "flow_new_source_port": gone.first,
        "flow_new_destination": one.destination,
        "flow_new_destination_port": gone.second,
    }
    found = []
    if wire.protocol in (*PORTED, ICMP, ICMPV6) and one.destination != wire.source:
        found.append(("another", Case(case.device, replace(wire, ident=next(idents)), onward)))
        found.append(("answer", Case(name, gone.reversed(next(idents)), back)))
        # The qube itself knows nothing of its flow, and ends one of TCP when the answer comes.
        if case.device or wire.protocol != TCP:
            found.append(("later", Case(case.device, replace(wire, ident=next(idents)), onward)))
    if wire.protocol in PORTED:
        router = "192.0.2.77" if wire.version == 4 else "2001:db8:77::1"
        translated = one.destination != wire.destination
        error = {**back, "flow_new_source": wire.destination if translated else router}
        found.append(("error", Case(name, gone.error(next(idents), router), error)))
    return found
