# SPDX-License-Identifier: GPL-2.0-or-later
"""A packet as the kernel's rules see it, every field a term of the solver.

One packet stands for all: a field that nobody fixes may have any value.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import z3

from qubes_vpn_formula.prove.terms import FALSE, TRUE, both, constant, either, equal, implies, not_

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
ICMP, TCP, UDP, DCCP, ICMPV6, SCTP, UDPLITE = 1, 6, 17, 33, 58, 132, 136
#: Protocols whose flows conntrack tells apart by ports, and which address translation may change.
PORTED = (TCP, UDP, DCCP, SCTP, UDPLITE)
#: IPv6 extension headers that the kernel looks behind (net/ipv6/exthdrs_core.c).
EXTENSIONS = (0, 43, 44, 51, 60, 135)
#: Bits of ``ct state`` (include/uapi/linux/netfilter/nf_conntrack_common.h).
STATES = {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64}
#: ICMP types that conntrack knows as errors about a flow, by protocol.
ERRORS = {ICMP: (3, 4, 5, 11, 12), ICMPV6: (1, 2, 3, 4)}
LONGEST_NAME = 15  # bytes of a device's, IFNAMSIZ without its end
LOOPBACK = 1  # the index of `lo`, in every network namespace

#: What conntrack tells flows apart by.
TUPLE = ("source", "destination", "protocol", "source_port", "destination_port")

_BOOL = 0
#: Bits of each field; _BOOL for a truth.
_WIDTHS = {
    "ethertype": 16,
    "source": 128,
    "destination": 128,
    "header_words": 4,
    "loose_route": _BOOL,
    "strict_route": _BOOL,
    "next_header": 8,
    "routing_header": _BOOL,
    "hop_limit": 8,
    "protocol_known": _BOOL,
    "protocol": 8,
    "later_fragment": _BOOL,
    "fragment_flags": 3,
    "fragment_offset": 13,
    "transport_bytes": 16,
    "source_port": 16,
    "destination_port": 16,
    "tcp_flags": 8,
    "in_index": 32,
    "in_name": 128,
    "in_kind": 128,
    "in_group": 32,
    "out_index": 32,
    "out_name": 128,
    "out_kind": 128,
    "out_group": 32,
    "mark": 32,
    "state": 8,
    "reply": _BOOL,
    "first": _BOOL,
    "flow_mark": 32,
    "original_source": 128,
    "original_destination": 128,
    "original_protocol": 8,
    "original_source_port": 16,
    "original_destination_port": 16,
    "has_socket": _BOOL,
    "user": 32,
    "group": 32,
    "flow_new_source": 128,
    "flow_new_destination": 128,
    "flow_new_source_port": 16,
    "flow_new_destination_port": 16,
    "in_address": 128,
    "out_address": 128,
    "free_port": 16,
}


@dataclass(frozen=True)
class Packet:
    """The fields, in host byte order; addresses of IPv4 are the low 32 bits of 128.

    header_words: IPv4's header length, in 32-bit words.
    loose_route, strict_route: the kernel finds that IP option; it overlooks one whose pointer is
    not at the first address.
    next_header, routing_header: IPv6, the first next-header byte; has such a header.
    protocol: behind all extension headers; protocol_known: the kernel found it.
    later_fragment: it has no transport header, because that was in an earlier fragment.
    fragment_flags, fragment_offset: IPv4's; the offset, of 8 bytes, counts in later fragments.
    transport_bytes: how many bytes of transport header and payload there are.
    source_port, destination_port: the first two and next two bytes of the transport header, of
    whatever protocol; so ICMP's type and code are the source port's bytes.
    in_*, out_*: a device; index 0 and an empty name for none, kind "" for one without
    (`rtnl_link_ops`), both as 16 bytes padded with zeros, first byte first.
    state: one of the bits of STATES.  reply: the packet goes the other way than its flow's first.
    first: it is the first of its flow here; others may be `new` too, until there was an answer.
    flow_mark, original_*: its conntrack entry: mark, and the first packet's own addresses.
    has_socket, user, group: of the socket that sent it.

    What is round the packet:
    flow_new_*: what the address translation of its flow, if the flow is an old one, makes of it.
    in_address, out_address: the address that `redirect` and `masquerade` take from a device; 0 when
    it has none.  free_port: the source port that the kernel picks when it has to.
    """

    ethertype: z3.BitVecRef
    source: z3.BitVecRef
    destination: z3.BitVecRef
    header_words: z3.BitVecRef
    loose_route: z3.BoolRef
    strict_route: z3.BoolRef
    next_header: z3.BitVecRef
    routing_header: z3.BoolRef
    hop_limit: z3.BitVecRef
    protocol_known: z3.BoolRef
    protocol: z3.BitVecRef
    later_fragment: z3.BoolRef
    fragment_flags: z3.BitVecRef
    fragment_offset: z3.BitVecRef
    transport_bytes: z3.BitVecRef
    source_port: z3.BitVecRef
    destination_port: z3.BitVecRef
    tcp_flags: z3.BitVecRef
    in_index: z3.BitVecRef
    in_name: z3.BitVecRef
    in_kind: z3.BitVecRef
    in_group: z3.BitVecRef
    out_index: z3.BitVecRef
    out_name: z3.BitVecRef
    out_kind: z3.BitVecRef
    out_group: z3.BitVecRef
    mark: z3.BitVecRef
    state: z3.BitVecRef
    reply: z3.BoolRef
    first: z3.BoolRef
    flow_mark: z3.BitVecRef
    original_source: z3.BitVecRef
    original_destination: z3.BitVecRef
    original_protocol: z3.BitVecRef
    original_source_port: z3.BitVecRef
    original_destination_port: z3.BitVecRef
    has_socket: z3.BoolRef
    user: z3.BitVecRef
    group: z3.BitVecRef
    flow_new_source: z3.BitVecRef
    flow_new_destination: z3.BitVecRef
    flow_new_source_port: z3.BitVecRef
    flow_new_destination_port: z3.BitVecRef
    in_address: z3.BitVecRef
    out_address: z3.BitVecRef
    free_port: z3.BitVecRef

    @classmethod
    def any(cls, name: str = "p") -> "Packet":
        """A packet with every field free; *name* is the beginning of the variables' names."""
        return cls(**{field: _variable(f"{name}.{field}", _WIDTHS[field]) for field in _WIDTHS})

    def having(self, **values: Any) -> "Packet":
        """The same with other terms, or values as :func:`value` takes them, in some fields."""
        return replace(self, **{field: value(field, one) for field, one in values.items()})

    def is_ipv4(self) -> z3.BoolRef:
        return equal(self.ethertype, IPV4)

    def is_ipv6(self) -> z3.BoolRef:
        return equal(self.ethertype, IPV6)

    def is_protocol(self, *numbers: int) -> z3.BoolRef:
        """Whether the kernel found one of these protocols."""
        return both(self.protocol_known, either(*[equal(self.protocol, one) for one in numbers]))

    def is_error(self) -> z3.BoolRef:
        """An ICMP message about another packet."""
        kind = z3.Extract(15, 8, self.source_port)
        return either(
            *[
                both(self.is_protocol(protocol), either(*[equal(kind, one) for one in kinds]))
                for protocol, kinds in ERRORS.items()
            ]
        )

    def in_state(self, *names: str) -> z3.BoolRef:
        """Whether conntrack has it in one of these states, of STATES."""
        return either(*[equal(self.state, STATES[name]) for name in names])

    def well_formed(self) -> z3.BoolRef:
        """What every packet fulfils that the kernel shows to a rule."""
        no_option = not_(either(self.loose_route, self.strict_route))
        extended = either(*[equal(self.next_header, one) for one in EXTENSIONS])
        short = [equal(z3.Extract(127, 32, one), 0) for one in self._addresses()]
        flowless = self.in_state("invalid", "untracked")
        return both(
            implies(
                self.is_ipv4(),
                both(
                    *short,
                    self.protocol_known,
                    z3.UGE(self.header_words, 5),
                    implies(equal(self.header_words, 5), no_option),
                    not_(self.routing_header),
                ),
            ),
            implies(not_(self.is_ipv4()), no_option),
            implies(
                self.is_ipv6(),
                both(
                    implies(self.routing_header, extended),
                    implies(
                        not_(extended),
                        both(
                            self.protocol_known,
                            equal(self.protocol, self.next_header),
                            not_(self.later_fragment),
                        ),
                    ),
                ),
            ),
            either(*[equal(self.state, bit) for bit in STATES.values()]),
            implies(flowless, not_(self.reply)),
            implies(self.in_state("new"), not_(self.reply)),
            implies(self.in_state("established"), not_(self.first)),
            implies(not_(either(self.is_ipv4(), self.is_ipv6())), not_(self.protocol_known)),
        )

    def possible(self) -> z3.BoolRef:
        """IP, well formed, and what conntrack says of its flow is true of it.

        A packet that goes the way of its flow's first one has the addresses and ports of that,
        before any translation (net/netfilter/nf_conntrack_core.c, `resolve_normal_ct`).  Only
        errors about a flow are of none themselves.
        """
        onward = both(
            self.in_state("new", "established", "related"),
            not_(self.reply),
            self.is_protocol(*PORTED),
        )
        same = [equal(getattr(self, f"original_{name}"), getattr(self, name)) for name in TUPLE]
        return both(
            either(self.is_ipv4(), self.is_ipv6()),
            self.well_formed(),
            implies(onward, both(*same)),
        )

    def came(self) -> z3.BoolRef:
        """What is so when it comes in by a device: marks are this qube's own."""
        return both(self.possible(), equal(self.mark, 0))

    def goes_through(self) -> z3.BoolRef:
        """What is so of one that came and is sent on: the kernel forwards none with a socket.

        One for the qube may have one at the input hook (`net.ipv4.udp_early_demux`).
        """
        return both(self.came(), not_(self.has_socket))

    def _addresses(self) -> list[z3.BitVecRef]:
        return [
            getattr(self, field.name)
            for field in fields(self)
            if _WIDTHS[field.name] == 128
            if not field.name.endswith(("_name", "_kind"))
        ]


def _variable(name: str, width: int) -> z3.ExprRef:
    return z3.BitVec(name, width) if width else z3.Bool(name)


def value(field: str, plain: Any) -> z3.ExprRef:
    """A term for *plain*: a term, number, truth, address, or text of a device's name or kind."""
    if z3.is_expr(plain):
        return plain
    width = _WIDTHS[field]
    if not width:
        return TRUE if plain else FALSE
    return constant(number(plain), width)


def number(plain: int | str) -> int:
    """The number in a field for an address, or a device's name or kind."""
    if isinstance(plain, int):
        return plain
    try:
        return int(ipaddress.ip_address(plain))
    except ValueError:
        return name_number(plain)


def name_number(name: str) -> int:
    """A device's name as the 16 bytes that the kernel compares."""
    data = name.encode("utf-8", "surrogateescape")
    if len(data) > LONGEST_NAME:
        raise ValueError(f"{name!r} is longer than a device's name can be")
    return int.from_bytes(data.ljust(16, b"\0"), "big")


def read(packet: Packet, model: z3.ModelRef) -> dict[str, int | bool]:
    """The values that *packet*'s fields have in a solver's answer; what it left open is 0."""
    found = {}
    for field in fields(packet):
        term = model.eval(getattr(packet, field.name), model_completion=True)
        found[field.name] = z3.is_true(term) if z3.is_bool(term) else term.as_long()
    return found


def at(terms: list[z3.ExprRef], packet: Packet, values: Mapping[str, Any]) -> list[z3.ExprRef]:
    """*terms* for one concrete packet: *values*, by field, in place of *packet*'s variables.

    This is how a concrete packet is judged: with the very terms that are proven with.
    """
    pairs = [(getattr(packet, field), value(field, one)) for field, one in values.items()]
    return [z3.simplify(z3.substitute(term, *pairs)) for term in terms]
