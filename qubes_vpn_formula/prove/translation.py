# SPDX-License-Identifier: GPL-2.0-or-later
"""Address translation: what a nat statement makes of a packet, and what an old flow's does."""

from dataclasses import dataclass
from typing import Any

import z3

from qubes_vpn_formula.prove import values
from qubes_vpn_formula.prove.notmodelled import NotModelled
from qubes_vpn_formula.prove.packet import IPV4, IPV6, PORTED, Packet, number
from qubes_vpn_formula.prove.ruleset import Rule, Ruleset
from qubes_vpn_formula.prove.statements import Statements
from qubes_vpn_formula.prove.terms import FALSE, TRUE, both, constant, either, equal, not_

#: The priority at which the kernel runs all nat chains of a hook, in the order of their own
#: (net/netfilter/nf_nat_proto.c).
PRIORITIES = {"prerouting": -100, "output": -100, "postrouting": 100, "input": 100}
#: The hooks where the source is translated; elsewhere it is the destination.
_OF_SOURCE = ("postrouting", "input")
STATEMENTS = ("dnat", "snat", "redirect", "masquerade")
_FLAGS = {"random", "fully-random", "persistent"}


@dataclass(frozen=True)
class Binding:
    """A rule has chosen this translation; drop: it has no address to give."""

    met: z3.BoolRef
    drop: z3.BoolRef
    address: z3.BitVecRef | None
    port: z3.BitVecRef | None


def families(ruleset: Ruleset) -> tuple[bool, bool]:
    """Whether IPv4 and IPv6 are translated at all: by the first nat chain, for all four hooks."""
    found = {chain.family for chain in ruleset.chains() if chain.base and chain.base.kind == "nat"}
    return bool(found & {"ip", "inet"}), bool(found & {"ip6", "inet"})


def has_ports(packet: Packet) -> z3.BoolRef:
    return packet.is_protocol(*PORTED)


def asks_rules(hook: str, packet: Packet) -> z3.BoolRef:
    """Whether the nat chains of *hook* see it: the first packet of a flow, and no error about one.

    What comes by `lo` was seen on its way out.
    """
    fresh = either(
        packet.in_state("new"), both(packet.in_state("related"), not_(packet.is_error()))
    )
    here = not_(equal(packet.in_index, 1)) if hook in ("prerouting", "input") else TRUE
    return both(packet.first, fresh, here)


def bindings(
    rule: Rule,
    hook: str,
    kind: str,
    data: dict[str, Any] | None,
    given: z3.BoolRef,
    packet: Packet,
    statements: Statements,
) -> list[Binding]:
    """What a nat statement chooses for *packet* under the condition *given*."""
    data = data or {}
    if odd := {*_listed(data.get("flags", []))} - _FLAGS | data.keys() - _KEYS:
        raise NotModelled(str(rule), f"{kind} with {', '.join(sorted(odd))}")
    port = _port(rule, data.get("port"))
    if kind == "masquerade":
        return [Binding(given, equal(packet.out_address, 0), packet.out_address, packet.free_port)]
    if kind == "redirect":
        if hook == "output":
            own = z3.If(packet.is_ipv4(), _address("127.0.0.1"), _address("::1"))
            return [Binding(given, FALSE, own, port)]
        return [Binding(given, equal(packet.in_address, 0), packet.in_address, port)]
    if kind == "snat":
        port = packet.free_port
    family = data.get("family", rule.family)
    if family not in ("ip", "ip6"):
        family = None
    truth = equal(packet.ethertype, {"ip": IPV4, "ip6": IPV6}[family]) if family else TRUE
    if "addr" not in data:
        return [Binding(both(given, truth), FALSE, None, port)]
    return [
        Binding(both(given, truth, hit), FALSE, address, port)
        for hit, address in _addresses(rule, family, data["addr"], packet, statements)
    ]


_KEYS = {"addr", "family", "port", "flags"}


def _addresses(
    rule: Rule, family: str | None, plain: Any, packet: Packet, statements: Statements
) -> list[tuple[z3.BoolRef, z3.BitVecRef]]:
    """``[(truth, address)...]``: of a map the one that it has, of a range any in it."""
    where = str(rule)
    kind = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}.get(family or "")
    if kind is None:
        raise NotModelled(where, f"an address of no family ({plain})")
    if isinstance(plain, dict) and "map" in plain:
        found = statements.lookup(rule, plain["map"]["key"], plain["map"]["data"], packet)
        spans = [
            (hit, one[0] if isinstance(one, tuple) else values.interval(kind, one, where))
            for hit, one in found
        ]
        if any(isinstance(one, tuple) and len(one) != 1 for _hit, one in found):
            raise NotModelled(where, "a map to address and port")
    else:
        spans = [(TRUE, values.interval(kind, plain, where))]
    return [(hit, _chosen(where, "address", 128, *span)) for hit, span in spans]


def _port(rule: Rule, plain: Any) -> z3.BitVecRef | None:
    if plain is None:
        return None
    return _chosen(str(rule), "port", 16, *values.interval("inet_service", plain, str(rule)))


def _chosen(where: str, what: str, width: int, low: int, high: int) -> z3.BitVecRef:
    """Of a range the kernel may take any, so all of it is allowed."""
    if low == high:
        return constant(low, width)
    free = z3.BitVec(f"{where}: {what}", width)
    inside = both(z3.UGE(free, low), z3.ULE(free, high))
    return z3.If(inside, free, constant(low, width))


def _address(text: str) -> z3.BitVecRef:
    return constant(number(text), 128)


def _listed(plain: str | list[str]) -> list[str]:
    return [plain] if isinstance(plain, str) else plain


def rewritten(
    hook: str, packet: Packet, chosen: list[Binding], fresh: z3.BoolRef, old: z3.BoolRef
) -> Packet:
    """*packet* behind the translation at *hook*.

    chosen: what rules chose, of which one at most is met.  fresh: the packet was for the rules to
    decide.  old: its flow was decided before.
    """
    end = "source" if hook in _OF_SOURCE else "destination"
    address, port = getattr(packet, end), getattr(packet, f"{end}_port")
    if end == "source":  # where nothing was chosen, a port that is taken is still changed
        port = z3.If(both(fresh, has_ports(packet)), packet.free_port, port)
    for one in chosen:
        if one.address is not None:
            address = z3.If(one.met, one.address, address)
        if one.port is not None:
            port = z3.If(both(one.met, has_ports(packet)), one.port, port)
    address = z3.If(old, getattr(packet, f"flow_new_{end}"), address)
    port = z3.If(both(old, has_ports(packet)), getattr(packet, f"flow_new_{end}_port"), port)
    return packet.having(**{end: address, f"{end}_port": port})
