# SPDX-License-Identifier: GPL-2.0-or-later
"""nft's expressions as terms about a packet.

Each says what it loads, and when it can: a rule whose expression cannot be loaded does not match,
whatever it is compared with (`NFT_BREAK`).
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import z3

from qubes_vpn_formula.prove import values
from qubes_vpn_formula.prove.notmodelled import NotModelled
from qubes_vpn_formula.prove.packet import (
    DCCP,
    ICMP,
    ICMPV6,
    LOOPBACK,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    Packet,
)
from qubes_vpn_formula.prove.ruleset import Key
from qubes_vpn_formula.prove.terms import TRUE, between, both, constant, either, equal, not_


class Loaded(NamedTuple):
    """kind: nft's name of its type.  there: whether it can be loaded."""

    kind: str
    term: z3.BitVecRef
    there: z3.BoolRef


#: Protocol -> its number, and field -> type, place in the transport header, and the packet's field.
_TRANSPORT = {
    "tcp": TCP,
    "udp": UDP,
    "udplite": UDPLITE,
    "dccp": DCCP,
    "sctp": SCTP,
    "icmp": ICMP,
    "icmpv6": ICMPV6,
}


class _Field(NamedTuple):
    kind: str
    end: int
    term: Callable[[Packet], z3.BitVecRef]


_PORTS = {
    "sport": _Field("inet_service", 2, lambda packet: packet.source_port),
    "dport": _Field("inet_service", 4, lambda packet: packet.destination_port),
}
_ICMP = {
    "type": _Field("icmp_type", 1, lambda packet: z3.Extract(15, 8, packet.source_port)),
    "code": _Field("icmp_code", 2, lambda packet: z3.Extract(7, 0, packet.source_port)),
    "checksum": _Field("number16", 4, lambda packet: packet.destination_port),
}
_ICMPV6 = _ICMP | {
    "type": _ICMP["type"]._replace(kind="icmpv6_type"),
    "code": _ICMP["code"]._replace(kind="icmpv6_code"),
}
_FLAGS = {"flags": _Field("tcp_flag", 14, lambda packet: packet.tcp_flags)}
_FIELDS = {
    "tcp": _PORTS | _FLAGS,
    "icmp": _ICMP,
    "icmpv6": _ICMPV6,
}


def _offset(packet: Packet) -> z3.BitVecRef:
    """0 is the offset of what is whole, or a first fragment."""
    given = packet.fragment_offset
    return z3.If(packet.later_fragment, z3.If(given == 0, constant(1, 13), given), 0 * given)


_IPV4: dict[str, tuple[str, Callable[[Packet], z3.BitVecRef]]] = {
    "saddr": ("ipv4_addr", lambda packet: z3.Extract(31, 0, packet.source)),
    "daddr": ("ipv4_addr", lambda packet: z3.Extract(31, 0, packet.destination)),
    "protocol": ("inet_proto", lambda packet: packet.protocol),
    "hdrlength": ("number4", lambda packet: packet.header_words),
    "frag-off": ("number16", lambda packet: z3.Concat(packet.fragment_flags, _offset(packet))),
    "ttl": ("number8", lambda packet: packet.hop_limit),
}
_IPV6: dict[str, tuple[str, Callable[[Packet], z3.BitVecRef]]] = {
    "saddr": ("ipv6_addr", lambda packet: packet.source),
    "daddr": ("ipv6_addr", lambda packet: packet.destination),
    "nexthdr": ("inet_proto", lambda packet: packet.next_header),
    "hoplimit": ("number8", lambda packet: packet.hop_limit),
}


def payload(family: str, data: dict[str, Any], packet: Packet, where: str) -> Loaded:
    """A header's field; nft adds the comparison with its protocol by itself, and does not list it.

    In an ip6 table it does not list a written `ip6 nexthdr` either, which differs behind extension
    headers: there either may be meant.  Nor does it list a comparison with a family before an ICMP
    field, or that there was none: where `meta l4proto icmp` was written before it, there is none.
    """
    protocol, name = data.get("protocol"), data.get("field")
    if odd := data.keys() - {"protocol", "field"}:  # of a packet in a packet (`tunnel`)
        raise NotModelled(where, f"a header's field with {', '.join(sorted(odd))}")
    if protocol == "ip" and name in _IPV4:
        kind, term = _IPV4[name]
        return Loaded(kind, term(packet), packet.is_ipv4())
    if protocol == "ip6" and name in _IPV6:
        kind, term = _IPV6[name]
        return Loaded(kind, term(packet), packet.is_ipv6())
    field = _FIELDS.get(protocol, _PORTS).get(name)
    if field is None or protocol not in (*_TRANSPORT, "th"):
        raise NotModelled(where, f"'{data}'")
    there = [
        packet.protocol_known,
        not_(packet.later_fragment),
        z3.UGE(packet.transport_bytes, field.end),
    ]
    if protocol != "th":
        there.append(equal(packet.protocol, _TRANSPORT[protocol]))
        if family == "ip6":
            first = equal(packet.next_header, _TRANSPORT[protocol])
            there.append(either(first, z3.Bool(f"{where}: not by ip6 nexthdr")))
    if protocol in ("icmp", "icmpv6"):
        own = packet.is_ipv4() if protocol == "icmp" else packet.is_ipv6()
        there.append(either(own, z3.Bool(f"{where}: ICMP of any family")))
    return Loaded(field.kind, field.term(packet), both(*there))


def _number(kind: str, number: int) -> z3.BitVecRef:
    return constant(number, values.WIDTHS[kind])


def _there_is(index: z3.BitVecRef) -> z3.BoolRef:
    return not_(equal(index, 0))


_META: dict[str, Callable[[Packet], tuple[str, z3.BitVecRef, z3.BoolRef]]] = {
    "l4proto": lambda packet: ("inet_proto", packet.protocol, packet.protocol_known),
    "protocol": lambda packet: ("ether_type", packet.ethertype, TRUE),
    "nfproto": lambda packet: (
        "nf_proto",
        z3.If(packet.is_ipv4(), _number("nf_proto", 2), _number("nf_proto", 10)),
        TRUE,
    ),
    "mark": lambda packet: ("mark", packet.mark, TRUE),
    "iif": lambda packet: ("iface_index", packet.in_index, TRUE),
    "oif": lambda packet: ("iface_index", packet.out_index, TRUE),
    "iifname": lambda packet: ("ifname", packet.in_name, TRUE),
    "oifname": lambda packet: ("ifname", packet.out_name, TRUE),
    "iifgroup": lambda packet: ("devgroup", packet.in_group, _there_is(packet.in_index)),
    "oifgroup": lambda packet: ("devgroup", packet.out_group, _there_is(packet.out_index)),
    # lo has no kind, and a comparison with a kind never matches then.
    "iifkind": lambda packet: ("ifname", packet.in_kind, _has_kind("in", packet)),
    "oifkind": lambda packet: ("ifname", packet.out_kind, _has_kind("out", packet)),
    "skuid": lambda packet: ("uid", packet.user, packet.has_socket),
    "skgid": lambda packet: ("gid", packet.group, packet.has_socket),
}


def _has_kind(way: str, packet: Packet) -> z3.BoolRef:
    index, kind = getattr(packet, f"{way}_index"), getattr(packet, f"{way}_kind")
    return both(_there_is(index), not_(equal(kind, 0)))


_CT: dict[str, Callable[[Packet], tuple[str, z3.BitVecRef]]] = {
    "direction": lambda packet: (
        "ct_dir",
        z3.If(packet.reply, constant(1, 1), constant(0, 1)),
    ),
    "mark": lambda packet: ("mark", packet.flow_mark),
    "protocol": lambda packet: ("inet_proto", packet.original_protocol),
    "original ip saddr": lambda packet: ("ipv4_addr", z3.Extract(31, 0, packet.original_source)),
    "original ip daddr": lambda packet: (
        "ipv4_addr",
        z3.Extract(31, 0, packet.original_destination),
    ),
    "original ip6 saddr": lambda packet: ("ipv6_addr", packet.original_source),
    "original ip6 daddr": lambda packet: ("ipv6_addr", packet.original_destination),
    "original proto-src": lambda packet: ("inet_service", packet.original_source_port),
    "original proto-dst": lambda packet: ("inet_service", packet.original_destination_port),
}


def _ct(family: str, data: dict[str, Any], packet: Packet, where: str) -> Loaded:
    key, way = data.get("key"), data.get("dir")
    if key == "state" and not way:
        return Loaded("ct_state", packet.state, TRUE)
    if key in ("saddr", "daddr") and family in ("ip", "ip6"):
        key = f"{family} {key}"
    name = f"{way} {key}" if way else key
    if name not in _CT:
        raise NotModelled(where, f"'ct {name}'")
    there = [not_(packet.in_state("invalid", "untracked"))]
    if " ip " in name:
        there.append(packet.is_ipv4())
    if " ip6 " in name:
        there.append(packet.is_ipv6())
    return Loaded(*_CT[name](packet), both(*there))


def _present(truth: z3.BoolRef, there: z3.BoolRef) -> Loaded:
    return Loaded("boolean", z3.If(truth, constant(1, 1), constant(0, 1)), there)


def load(family: str, data: Any, packet: Packet, where: str) -> list[Loaded]:
    """The parts of an expression in a table of *family*; more than one if it is a concatenation.

    where: the rule, for NotModelled.
    """
    if isinstance(data, dict) and len(data) == 1:
        [(kind, inner)] = data.items()
        if kind == "concat":
            return [part for one in inner for part in load(family, one, packet, where)]
        if kind in ("&", "|", "^", "<<", ">>"):
            return [_bitwise(kind, family, inner, packet, where)]
        if kind == "payload":
            return [payload(family, inner, packet, where)]
        if kind == "meta" and inner.get("key") in _META:
            return [Loaded(*_META[inner["key"]](packet))]
        if kind == "ct":
            return [_ct(family, inner, packet, where)]
        if data == {"ip option": {"name": "lsrr"}}:
            return [_present(packet.loose_route, packet.is_ipv4())]
        if data == {"ip option": {"name": "ssrr"}}:
            return [_present(packet.strict_route, packet.is_ipv4())]
        if data == {"exthdr": {"name": "rt"}}:
            return [_present(packet.routing_header, packet.is_ipv6())]
    raise NotModelled(where, f"'{data}'")


#: nft writes two in a row at most.
_OPERANDS = 8
_BITWISE: dict[str, Callable[[z3.BitVecRef, z3.BitVecRef], z3.BitVecRef]] = {
    "&": lambda left, right: left & right,
    "|": lambda left, right: left | right,
    "^": lambda left, right: left ^ right,
    "<<": lambda left, right: left << right,
    ">>": z3.LShR,
}


def _bitwise(sign: str, family: str, parts: Any, packet: Packet, where: str) -> Loaded:
    left, *others = parts
    if len(others) > _OPERANDS:
        raise NotModelled(where, f"'{sign}' of more than {_OPERANDS} values")
    found = single(family, left, packet, where)
    for other in others:
        number = values.single(found.kind, other, where)
        term = _BITWISE[sign](found.term, constant(number, found.term.size()))
        found = found._replace(term=term)
    return found


def single(family: str, data: Any, packet: Packet, where: str) -> Loaded:
    """An expression that is no concatenation."""
    parts = load(family, data, packet, where)
    if len(parts) != 1:
        raise NotModelled(where, f"'{data}'")
    return parts[0]


def index_of(name: str) -> z3.BitVecRef:
    """The index of the device that was called *name* when the rules were listed."""
    return constant(LOOPBACK, 32) if name == "lo" else z3.BitVec(f"index of {name}", 32)


def within(parts: list[Loaded], key: Key) -> z3.BoolRef:
    """Whether the loaded values are in the key's intervals; says nothing on whether they load."""
    return both(*[between(one.term, *span) for one, span in zip(parts, key, strict=True)])


def one_of(parts: list[Loaded], keys: Iterable[Key]) -> z3.BoolRef:
    """Whether one of *keys* has the loaded values; single values cost one comparison each."""
    whole = z3.Concat([one.term for one in parts]) if len(parts) > 1 else parts[0].term
    return either(*[_is_key(whole, parts, key) for key in keys])


def _is_key(whole: z3.BitVecRef, parts: list[Loaded], key: Key) -> z3.BoolRef:
    if any(low != high for low, high in key):
        return within(parts, key)
    joined = 0
    for one, (low, _high) in zip(parts, key, strict=True):
        joined = joined << one.term.size() | low
    return equal(whole, joined)
