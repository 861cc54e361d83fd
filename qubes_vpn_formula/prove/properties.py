# SPDX-License-Identifier: GPL-2.0-or-later
"""P1 to P8: what must hold of every packet, as claims about a place's rules.

A claim is a question to the solver: is there a packet that does the *bad* thing?  With none it is
proven.
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import z3

from qubes_vpn_formula.prove import path
from qubes_vpn_formula.prove.machine import Facts
from qubes_vpn_formula.prove.packet import (
    ARP,
    ICMP,
    ICMPV6,
    LOOPBACK,
    TCP,
    UDP,
    Packet,
    name_number,
    number,
)
from qubes_vpn_formula.prove.path import Way
from qubes_vpn_formula.prove.ruleset import Rule, Ruleset
from qubes_vpn_formula.prove.statements import Names
from qubes_vpn_formula.prove.terms import TRUE, between, both, either, equal, not_
from qubes_vpn_formula.prove.walk import walk
from qubes_vpn_net import Destination
from qubes_vpn_ruleset import MARK

#: What is proven, in the words of people.
TITLES = {
    "P1": "no packet of a client leaves by the VPN qube's uplink",
    "P2": "no packet of the VPN qube's own leaves by its uplink, except to an endpoint, and for "
    "neighbours (ARP, IPv6's neighbour discovery)",
    "P3": "no DNS packet of a client reaches another than the intended resolver",
    "P4": "nothing from the uplink or the tunnel opens a new flow to a client",
    "P5": "no packet of a client reaches another client",
    "P6": "what has to work gets through: flows, answers, errors, the tunnel's own, neighbours",
    "P7": "P1 to P5 hold in each rule set that there is while rules are loaded",
    "P8": "the upstream qube lets the VPN qube open flows to its endpoints only, and a client that "
    "has an allowlist to what is on it only",
}
DNS, DNS_PORTS = 53, (53, 853)
_PROTOCOLS = {"tcp": TCP, "udp": UDP}
_CLIENTS = 2  # the group of clients' links
_KINDS = ("tun", "wireguard")  # that a tunnel's device may be of
_NEIGHBOURS = (135, 136)  # ICMPv6 types, RFC 4861
_LISTED = ", if its own firewall list lets it"


@dataclass(frozen=True)
class Claim:
    """id: the property's.  text: what is claimed.  bad: true of a packet that breaks it.

    packet: as it comes in.  way: what it meets.  leaves: whether a packet that breaks it gets
    through; False where the claim is that it does, and it is stopped.  likely: conditions that make
    a counterexample one that people know, wanted one after the other as far as they can be had, and
    made when there is one.
    """

    id: str
    text: str
    bad: z3.BoolRef
    packet: Packet
    way: Way
    leaves: bool = True
    likely: Callable[[], Sequence[z3.BoolRef]] = tuple


class Question:
    """A place as the claims need it; each way through it is walked once.

    endpoint: whether a packet goes to an endpoint, as a term.  open_sets: sets that are not looked
    into.
    """

    def __init__(
        self,
        ruleset: Ruleset,
        facts: Facts,
        endpoint: Callable[[Packet], z3.BoolRef],
        open_sets: Names = frozenset(),
    ) -> None:
        self.ruleset, self.facts, self.endpoint = ruleset, facts, endpoint
        self.open_sets = open_sets

    @cached_property
    def forwarded(self) -> tuple[Packet, Way, z3.BoolRef]:
        """A packet from one device to another, its way, and what is known of it."""
        packet = Packet.any("p")
        known = both(packet.goes_through(), _device(packet, "in"), _device(packet, "out"))
        return packet, path.forwarded(self.ruleset, packet, self.open_sets), known

    @cached_property
    def sent(self) -> tuple[Packet, Way, z3.BoolRef]:
        """A packet of the qube's own."""
        packet = Packet.any("own")
        known = both(packet.possible(), _device(packet, "out"))
        return packet, path.sent(self.ruleset, packet, self.open_sets), known

    @cached_property
    def received(self) -> tuple[Packet, Way, z3.BoolRef]:
        """A packet for the qube itself."""
        packet = Packet.any("in")
        known = both(packet.came(), _device(packet, "in"))
        return packet, path.received(self.ruleset, packet, self.open_sets), known


def claims(question: Question, wanted: Iterable[str]) -> Iterator[Claim]:
    """The claims of these properties."""
    for id in wanted:
        yield from _CLAIMS[id](question)


# Who is who.  A device has an index, a name, a group and a kind; only what is known of it counts.


def client(packet: Packet, side: str) -> z3.BoolRef:
    """A link to a client: Qubes names and groups it."""
    name, group = getattr(packet, f"{side}_name"), getattr(packet, f"{side}_group")
    begins = equal(z3.Extract(127, 104, name), name_number("vif") >> 104)
    return both(_device(packet, side), begins, equal(group, _CLIENTS))


def tunnel(packet: Packet, side: str, facts: Facts) -> z3.BoolRef:
    """The tunnel: one of the configured names, and of a tunnel's kind."""
    name, kind = getattr(packet, f"{side}_name"), getattr(packet, f"{side}_kind")
    named = either(*[equal(name, name_number(one)) for one in facts.tunnels])
    return both(
        _device(packet, side), named, either(*[equal(kind, name_number(one)) for one in _KINDS])
    )


def uplink(packet: Packet, side: str, facts: Facts) -> z3.BoolRef:
    """Every other device, whatever it is called, and whether or not it exists yet."""
    other = either(client(packet, side), tunnel(packet, side, facts))
    return both(_device(packet, side), not_(other))


def _device(packet: Packet, side: str) -> z3.BoolRef:
    return z3.UGT(getattr(packet, f"{side}_index"), LOOPBACK)


# What a packet is


def to_one_of(packet: Packet, destinations: Sequence[Destination]) -> z3.BoolRef:
    """Whether it goes to one of these: family, address, protocol and port; or is any ICMP.

    A fragment has the ports of what it is of.
    """
    return either(*[_to(packet, one) for one in destinations])


def _to(packet: Packet, one: Destination) -> z3.BoolRef:
    if one.host == "icmp":
        kinds = (packet.is_ipv4(), ICMP), (packet.is_ipv6(), ICMPV6)
        return either(*[both(family, packet.is_protocol(kind)) for family, kind in kinds])
    network = ipaddress.ip_network(one.host)
    family = packet.is_ipv4() if one.version == 4 else packet.is_ipv6()
    return both(
        family,
        between(packet.destination, int(network[0]), int(network[-1])),
        packet.is_protocol(_PROTOCOLS[one.proto]),
        between(packet.destination_port, one.first, one.last),
    )


def _for_port(packet: Packet, *ports: int) -> z3.BoolRef:
    ported = either(*[equal(packet.destination_port, port) for port in ports])
    return both(packet.is_protocol(TCP, UDP), _whole(packet), ported)


def _whole(packet: Packet) -> z3.BoolRef:
    """It has all of UDP's header, or as much of TCP's."""
    return both(not_(packet.later_fragment), z3.UGE(packet.transport_bytes, 8))


def _from_port(packet: Packet, *ports: int) -> z3.BoolRef:
    ported = either(*[equal(packet.source_port, port) for port in ports])
    return both(packet.is_protocol(TCP, UDP), _whole(packet), ported)


def _to_port(packet: Packet, end: Packet) -> z3.BoolRef:
    """It is for one of DNS' ports at its end, whatever it was for at first."""
    ported = either(*[equal(end.destination_port, port) for port in DNS_PORTS])
    return both(packet.is_protocol(TCP, UDP), _whole(packet), ported)


def _kept_port(packet: Packet) -> z3.BoolRef:
    """No earlier rule, of somebody else's, translated the port of its flow: none of these does."""
    return packet.flow_new_destination_port == packet.destination_port


def _neighbour(packet: Packet) -> z3.BoolRef:
    kind = z3.Extract(15, 8, packet.source_port)
    return both(
        packet.is_ipv6(),
        packet.is_protocol(ICMPV6),
        either(*[equal(kind, one) for one in _NEIGHBOURS]),
        packet.hop_limit == 255,
    )


def _answers(packet: Packet) -> z3.BoolRef:
    """Belongs to a flow that was opened the other way, or is an error about one."""
    error = both(packet.in_state("related"), packet.is_error())
    return both(packet.reply, either(packet.in_state("established"), error))


def _good_answers(packet: Packet) -> z3.BoolRef:
    """Answers that a flow needs, and errors about what it sends."""
    error = both(packet.in_state("related"), _good_error(packet))
    return both(packet.reply, _plain(packet), either(packet.in_state("established"), error))


def _good_error(packet: Packet) -> z3.BoolRef:
    """One that RFC 1122 and RFC 4443 have hosts heed."""
    kind = z3.Extract(15, 8, packet.source_port)
    return either(
        *[
            both(family, packet.is_protocol(protocol), either(*[equal(kind, one) for one in kinds]))
            for family, protocol, kinds in (
                (packet.is_ipv4(), ICMP, (3, 11, 12)),
                (packet.is_ipv6(), ICMPV6, (1, 2, 3, 4)),
            )
        ]
    )


def _ping(packet: Packet) -> z3.BoolRef:
    """It asks for an echo: type and code.  Conntrack knows no flow that other ICMP begins."""
    return either(
        both(packet.is_ipv4(), packet.is_protocol(ICMP), packet.source_port == 0x0800),
        both(packet.is_ipv6(), packet.is_protocol(ICMPV6), packet.source_port == 0x8000),
    )


# The properties


def _p1(q: Question) -> Iterator[Claim]:
    packet, way, known = q.forwarded
    bad = both(known, way.through, client(packet, "in"), uplink(packet, "out", q.facts))
    yield Claim(
        "P1", TITLES["P1"], bad, packet, way, likely=_likely(packet, "vif4.0", "eth0", "wg0")
    )

    packet, way, known = q.sent
    bad = both(
        known, way.through, packet.in_state("untracked"), uplink(way.packet, "out", q.facts),
        not_(_neighbour(way.packet)),
    )  # fmt: skip
    text = "nor does a copy of one that a dup rule made, which has no flow"
    yield Claim("P1", text, bad, packet, way, likely=_likely(packet, "", "eth0", "wg0"))


def _p2(q: Question) -> Iterator[Claim]:
    packet, way, known = q.sent
    whole = both(not_(packet.later_fragment), not_(_routed(packet)))
    meant = either(both(q.endpoint(way.packet), whole), _neighbour(way.packet))
    bad = both(
        known,
        uplink(way.packet, "out", q.facts),
        way.through,
        not_(meant),
    )
    likely = _likely(packet, "", "eth0", "wg0", end=way.packet)
    yield Claim("P2", TITLES["P2"], bad, packet, way, likely=likely)
    for name in q.facts.guarded:
        raw = Packet.any("raw")
        outcome = walk(q.ruleset, "egress", raw, open_sets=q.open_sets)
        bad = both(
            raw.out_name == name_number(name), uplink(raw, "out", q.facts),
            raw.mark & MARK == 0, raw.ethertype != ARP, outcome.accepted,
        )  # fmt: skip
        way = Way((("egress", outcome),), outcome.accepted, outcome.packet)
        text = f"nothing but ARP leaves {name} that has not passed the output chain"
        yield Claim("P2", text, bad, raw, way, likely=_likely(raw, "", name))


def _p3(q: Question) -> Iterator[Claim]:
    packet, way, known = q.forwarded
    end = way.packet
    fits = [
        both(end.is_ipv6() if ":" in one else end.is_ipv4(), end.destination == number(one))
        for one in q.facts.resolvers
    ]
    meant = both(either(*fits), tunnel(end, "out", q.facts), end.destination_port == DNS)
    # An answer of the client's own, to who asks it from that port, is none of its questions.
    asked = either(not_(packet.reply), _kept_port(packet))
    asks = both(client(packet, "in"), _for_port(packet, DNS), asked)
    bad = both(known, way.through, asks, not_(meant))
    likely = _likely(packet, "vif4.0", "wg0", to="203.0.113.53")
    yield Claim("P3", TITLES["P3"], bad, packet, way, likely=likely)

    packet, way, known = q.received
    asks = both(client(packet, "in"), _for_port(packet, DNS), not_(packet.reply))
    bad = both(known, way.through, asks)
    text = "no DNS packet of a client is answered by a program in the VPN qube"
    yield Claim("P3", text, bad, packet, way, likely=_likely(packet, "vif4.0", ""))


def _p4(q: Question) -> Iterator[Claim]:
    packet, way, known = q.forwarded
    outside = either(uplink(packet, "in", q.facts), tunnel(packet, "in", q.facts))
    bad = both(known, way.through, outside, client(packet, "out"), not_(_answers(packet)))
    likely = _likely(packet, "eth0", "vif4.0", to="10.137.0.4")
    yield Claim("P4", TITLES["P4"], bad, packet, way, likely=likely)


def _p5(q: Question) -> Iterator[Claim]:
    packet, way, known = q.forwarded
    bad = both(known, way.through, client(packet, "in"), client(packet, "out"))
    likely = _likely(packet, "vif4.0", "vif5.0", to="10.137.0.5")
    yield Claim("P5", TITLES["P5"], bad, packet, way, likely=likely)


def _p8(q: Question, text: str) -> Iterator[Claim]:
    packet, way, known = q.forwarded
    opens = packet.in_state("new", "untracked", "invalid")
    its = either(*[equal(packet.in_name, name_number(device)) for device in q.facts.clients])
    its = both(client(packet, "in"), its)
    bad = both(known, way.through, its, opens, not_(q.endpoint(way.packet)))
    yield Claim("P8", text, bad, packet, way, likely=_likely(packet, "vif4.0", "eth0", "wg0"))


def _resolver(q: Question) -> Iterator[Claim]:
    """P3 of a resolver qube: no DNS in plain leaves it."""
    packet, way, known = q.forwarded

    asks = either(_for_port(packet, *DNS_PORTS), _from_port(packet, *DNS_PORTS))
    asks = both(asks, either(not_(packet.reply), _kept_port(packet)))
    asks = either(asks, _to_port(packet, way.packet))
    bad = both(known, way.through, client(packet, "in"), asks)
    text = "no DNS packet of a client goes past the resolver in this qube"
    kept = way.packet.destination != packet.in_address  # what is redirected is not sent on
    likely = _likely(packet, "vif4.0", "eth0", "wg0", first=kept)
    yield Claim("P3", text, bad, packet, way, likely=likely)

    packet, way, known = q.sent
    out = not_(client(way.packet, "out"))
    asks = either(_to_port(packet, way.packet), _from_port(packet, *DNS_PORTS))
    bad = both(known, out, way.through, asks)
    text = "no DNS packet of the resolver qube's own leaves it in plain"
    yield Claim("P3", text, bad, packet, way, likely=_likely(packet, "", "eth0", "wg0"))


def _p6(q: Question) -> Iterator[Claim]:
    for text, needs, devices in (
        (f"a client's flow gets into the tunnel{_LISTED}", _client_flow, ("vif4.0", "wg0")),
        (f"a client's DNS gets into the tunnel{_LISTED}", _client_question, ("vif4.0", "wg0")),
        ("a client's errors about answers get into the tunnel", _client_error, ("vif4.0", "wg0")),
        (
            "answers and errors come out of the tunnel to the client",
            _answer_flow,
            ("wg0", "vif4.0"),
        ),
    ):
        packet, way, known = q.forwarded
        stopped = not_(either(way.through, _by_its_list(way)))
        bad = both(known, needs(q.facts, packet), stopped)
        yield Claim("P6", text, bad, packet, way, False, _likely(packet, *devices))
    yield from _own_packets(q)
    yield from _neighbours(q)


def _own_packets(q: Question) -> Iterator[Claim]:
    """Of the VPN qube itself: the tunnel's, those in it, and what clients hear from it."""

    packet, way, known = q.sent
    goes_on = both(_plain(packet), _stays(packet, way.packet), packet.out_address != 0)
    flow = both(
        packet.in_state("new", "established"), not_(packet.reply), _no_translation(packet),
        packet.out_group != _CLIENTS, not_(_to_a_client(packet, q.facts)),
    )  # fmt: skip
    to_endpoint = both(
        q.endpoint(packet), packet.is_protocol(TCP, UDP), uplink(packet, "out", q.facts)
    )
    to_client = both(client(packet, "out"), _good_answers(packet))
    for text, good, goes in (
        ("the tunnel's own packets get to its endpoints", both(flow, to_endpoint), "eth0"),
        (
            "the VPN qube's own packets get into the tunnel",
            both(flow, tunnel(packet, "out", q.facts)),
            "wg0",
        ),
        (
            "the VPN qube's answers to clients, and its errors about their flows, get to them",
            to_client,
            "vif4.0",
        ),
    ):
        bad = both(known, goes_on, good, not_(way.through))
        yield Claim("P6", text, bad, packet, way, False, _likely(packet, "", goes))

    packet, way, known = q.received
    outside = either(uplink(packet, "in", q.facts), tunnel(packet, "in", q.facts))
    answer = both(
        outside, _good_answers(packet), not_(_spoofed(packet, q.facts)),
        packet.in_group != _CLIENTS,
    )  # fmt: skip
    ping = both(_from_client(q.facts, packet), _ping(packet), packet.in_state("new"))
    for text, good, came in (
        (
            "answers of the endpoints and errors about their flows, path-MTU messages too, come in",
            answer,
            "eth0",
        ),
        ("a client's ping comes in", ping, "vif4.0"),
    ):
        bad = both(known, good, not_(way.through))
        yield Claim("P6", text, bad, packet, way, False, _likely(packet, came, ""))


def _neighbours(q: Question) -> Iterator[Claim]:
    """Who is next on the uplink is found: ARP, and IPv6's discovery, which has no flow."""
    out, back = "IPv6 neighbours on the uplink are asked, and answered", "they ask, and answer, too"
    packet, way, known = q.sent
    good = both(
        _neighbour(packet), uplink(packet, "out", q.facts), _stays(packet, way.packet),
        not_(_to_a_client(packet, q.facts)),
    )  # fmt: skip
    flowless = packet.in_state("untracked")
    bad = both(known, good, flowless, _whole(packet), not_(way.through))
    yield Claim("P6", out, bad, packet, way, False, _likely(packet, "", "eth0"))

    packet, way, known = q.received
    good = both(
        _neighbour(packet), uplink(packet, "in", q.facts), not_(_spoofed(packet, q.facts)),
        packet.in_group != _CLIENTS,
    )  # fmt: skip
    flowless = packet.in_state("untracked")
    bad = both(known, good, flowless, _whole(packet), not_(way.through))
    yield Claim("P6", back, bad, packet, way, False, _likely(packet, "eth0", ""))

    frame = Packet.any("frame")
    outcome = walk(q.ruleset, "egress", frame, open_sets=q.open_sets)
    bad = both(_device(frame, "out"), frame.ethertype == ARP, not_(outcome.accepted))
    way = Way((("egress", outcome),), outcome.accepted, outcome.packet)
    text = "ARP leaves by any device"
    yield Claim("P6", text, bad, frame, way, False, _likely(frame, "", "eth0"))


def _stays(packet: Packet, end: Packet) -> z3.BoolRef:
    """It goes out by the device that it was meant for, also where it was routed again."""
    names = [f"out_{what}" for what in ("index", "name", "kind", "group", "address")]
    return both(*[equal(getattr(packet, name), getattr(end, name)) for name in names])


def _client_flow(facts: Facts, packet: Packet) -> z3.BoolRef:
    return both(
        _of_a_client(facts, packet), packet.in_state("new", "established"),
        not_(_for_port(packet, DNS)), _no_translation(packet), not_(_to_a_client(packet, facts)),
    )  # fmt: skip


def _client_question(facts: Facts, packet: Packet) -> z3.BoolRef:
    """For whatever address."""
    known = {":" in one for one in facts.resolvers}
    families = [packet.is_ipv6() if six else packet.is_ipv4() for six in known]
    asks = both(packet.in_state("new"), packet.first, _for_port(packet, DNS))
    return both(either(*families), _of_a_client(facts, packet), asks)


def _client_error(facts: Facts, packet: Packet) -> z3.BoolRef:
    error = both(packet.in_state("related"), _good_error(packet), _no_translation(packet))
    return both(_of_a_client(facts, packet), error, not_(_to_a_client(packet, facts)))


def _of_a_client(facts: Facts, packet: Packet) -> z3.BoolRef:
    """What a client may send, into the tunnel; whatever it is for."""
    return both(
        _from_client(facts, packet), tunnel(packet, "out", facts), not_(packet.reply),
        packet.out_address != 0, packet.out_group != _CLIENTS,
    )  # fmt: skip


def _from_client(facts: Facts, packet: Packet) -> z3.BoolRef:
    """A good packet, by the client's own link and from its own address."""
    own = [
        both(
            equal(packet.in_name, name_number(device)), equal(packet.source, number(one)),
            packet.is_ipv6() if ":" in one else packet.is_ipv4(),
        )
        for device, addresses in facts.clients.items()
        for one in addresses
    ]  # fmt: skip
    return both(either(*own), client(packet, "in"), _plain(packet))


def _answer_flow(facts: Facts, packet: Packet) -> z3.BoolRef:
    own = [
        both(
            equal(packet.out_name, name_number(device)),
            packet.is_ipv6() if ":" in one else packet.is_ipv4(),
        )
        for device, addresses in facts.clients.items()
        for one in addresses
    ]  # fmt: skip
    return both(
        either(*own), tunnel(packet, "in", facts), client(packet, "out"), _good_answers(packet),
        not_(_spoofed(packet, facts)), packet.in_group != _CLIENTS,
    )  # fmt: skip


def _spoofed(packet: Packet, facts: Facts) -> z3.BoolRef:
    """It says that it is from a client, and came by another link."""
    return _of_clients(packet.source, facts)


def _to_a_client(packet: Packet, facts: Facts) -> z3.BoolRef:
    """It is for a client, and goes out by another link: no route leads there."""
    return _of_clients(packet.destination, facts)


def _of_clients(address: z3.BitVecRef, facts: Facts) -> z3.BoolRef:
    known = [number(one) for addresses in facts.clients.values() for one in addresses]
    return either(*[equal(address, one) for one in known])


def _by_its_list(way: Way) -> z3.BoolRef:
    """The client's own list in qubes-firewall stops it: what dom0 wants, and no fault."""
    return either(
        *[
            step.met
            for _hook, outcome in way.hooks
            for step in outcome.trace
            if isinstance(step.where, Rule) and step.what in ("drop", "reject")
            if step.where.table == "qubes-firewall" and step.where.chain.startswith("qbs-")
        ]
    )


def _routed(packet: Packet) -> z3.BoolRef:
    """Its destination may be only a stop on the way.

    `ip option` finds a source route of which no stop is used: so any IPv4 option may be one.
    """
    return either(both(packet.is_ipv4(), z3.UGT(packet.header_words, 5)), packet.routing_header)


def _plain(packet: Packet) -> z3.BoolRef:
    """A whole packet with a whole header, that needs no source route and may be sent on."""
    return both(
        not_(_routed(packet)), not_(packet.later_fragment), packet.protocol_known,
        z3.UGE(packet.transport_bytes, 8), z3.UGT(packet.hop_limit, 1),
    )  # fmt: skip


def _no_translation(packet: Packet) -> z3.BoolRef:
    """A flow's old translation is the one that these rules would make: none of the destination."""
    return both(packet.flow_new_destination == packet.destination, _kept_port(packet))


_CLAIMS: dict[str, Callable[[Question], Iterator[Claim]]] = {
    "P1": _p1,
    "P2": _p2,
    "P3": _p3,
    "P4": _p4,
    "P5": _p5,
    "P6": _p6,
    "P8": partial(_p8, text="the upstream qube lets the VPN qube open flows to its endpoints only"),
    "P8L": partial(_p8, text="the qube opens flows to what is on its allowlist only"),
    "P3R": _resolver,
}


def _likely(*arguments: Any, **more: Any) -> Callable[[], Sequence[z3.BoolRef]]:
    """Makes the wishes when they are wanted: for what is proven nobody does."""
    return partial(_wishes, *arguments, **more)


def _wishes(
    packet: Packet,
    came: str,
    goes: str,
    or_goes: str = "",
    to: str = "",
    end: Packet | None = None,
    first: z3.BoolRef = TRUE,
) -> Sequence[z3.BoolRef]:
    """What an everyday packet is like, the most telling first.

    came, goes: names of the devices, empty for none.  or_goes: if *goes* cannot be.  to: its
    destination.  end: how it leaves, by *goes*.  first: what counts more than all this.
    """
    wishes: list[Any] = [first, *([packet.destination == number(to)] if to else [])]
    wishes += [
        packet.is_ipv4(),
        packet.protocol == UDP,
        either(packet.is_protocol(UDP, TCP), _ping(packet)),
        packet.in_state("new"),
        packet.in_state("new", "established"),
        packet.first,
        not_(packet.later_fragment),
        packet.protocol_known,
        packet.header_words == 5,
        packet.header_words == 8,
        packet.next_header == UDP,
    ]
    for side, name in (("in", came), ("out", goes)):
        kind = "tun" if name == "wg0" else "veth" if name else ""
        group = 2 if name.startswith("vif") else 1 if name == "eth0" else 0
        index = {"": 0, "eth0": 2, "vif4.0": 4, "vif5.0": 5, "wg0": 6}.get(name, 7)
        wishes += [getattr(packet, f"{side}_name") == name_number(name)]
        if side == "out" and or_goes:
            wishes += [packet.out_name == name_number(or_goes)]
        wishes += [getattr(packet, f"{side}_kind") == name_number(kind)]
        wishes += [getattr(packet, f"{side}_group") == group]
        wishes += [getattr(packet, f"{side}_index") == index]
    source = {"vif4.0": "10.137.0.4", "": "10.137.0.3"}.get(came, "203.0.113.80")
    wishes += [
        packet.source == number(source),
        packet.destination == number("203.0.113.80"),
        packet.source_port == 40000,
        packet.destination_port == 443,
        packet.destination_port == DNS,
        packet.hop_limit == 64,
        packet.transport_bytes == 64,
        packet.mark == 0,
        packet.tcp_flags == 2,
        packet.original_source == packet.source,
        packet.original_destination == packet.destination,
        packet.original_protocol == packet.protocol,
        packet.original_protocol == UDP,
        packet.original_source_port == packet.source_port,
        packet.original_destination_port == packet.destination_port,
        packet.flow_new_source == packet.source,
        packet.flow_new_destination == packet.destination,
        packet.flow_new_source_port == packet.source_port,
        packet.flow_new_destination_port == packet.destination_port,
    ]
    return [*wishes, end.out_name == name_number(goes)] if end else wishes
