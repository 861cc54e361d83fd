# SPDX-License-Identifier: GPL-2.0-or-later
"""The model of nftables by itself: what it says of small rule sets, and what it refuses (R91)."""

import os

import pytest
import z3

from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.prove import bytecode, nftjson, path
from qubes_vpn_formula.prove.collect import Link, listing
from qubes_vpn_formula.prove.notmodelled import NotModelled
from qubes_vpn_formula.prove.packet import IPV4, IPV6, STATES, TCP, UDP, Packet, at, read, value
from qubes_vpn_formula.prove.ruleset import Base
from qubes_vpn_formula.prove.walk import walk

_HOOK = "type filter hook forward priority 0; policy drop;"


@pytest.fixture(autouse=True)
def _namespaces():
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")


def _load(text, *links):
    return nftjson.read(listing([text], links))


def _made(entries):
    """What an nft would say that also said what it compares."""
    entries = [
        {kind: {**data, "complete": True} for kind, data in entry.items()} for entry in entries
    ]
    return nftjson.read({"nftables": entries})


def _forward(rules, *, more="", family="inet"):
    text = f"table {family} t {{\n{more}\nchain c {{\n{_HOOK}\n{rules}\n}}\n}}\n"
    return _load(text)


def _holds(*truths):
    """Whether there is a packet of which all of it is so; None if there is none."""
    packet = Packet.any()
    solver = z3.Solver()
    solver.add(packet.well_formed(), *truths)
    return read(packet, solver.model()) if solver.check() == z3.sat else None


@pytest.mark.parametrize(
    ("rules", "what"),
    [
        ("fib daddr type local accept", "fib"),
        ("ip dscp 3 accept", "dscp"),
        ("meta pkttype broadcast accept", "pkttype"),
        ("ct status dnat accept", "ct status"),
        ("tcp dport set 80", "change"),
        ("tcp option maxseg size set rt mtu accept", "behind a change of the MSS"),
        ("meta length 100 accept", "length"),
        ("@th,0,32 1 accept", "base"),
        ("udp dport vmap { 53 : continue } accept", "a statement behind 'vmap'"),
        ('iifname vmap { "eth0" : drop, * : accept }', "an element for all"),
    ],
)
def test_a_rule_that_is_not_modelled_is_refused_and_named(rules, what):
    with pytest.raises(NotModelled, match=f"^inet t c, rule 1: .*{what}.* is not modelled$"):
        walk(_forward(rules), "forward", Packet.any())


@pytest.mark.parametrize(
    "more",
    [
        "set s { type ipv4_addr; flags timeout; }",
        "set s { type ether_addr; }",
        "flags dormant;",
    ],
)
def test_what_changes_by_itself_or_is_unknown_is_refused(more):
    with pytest.raises(NotModelled, match="inet t"):
        _forward("accept", more=more)


def test_a_rule_that_adds_to_a_set_is_refused():
    more = "set s { type ipv4_addr; flags dynamic; size 5; }"
    with pytest.raises(NotModelled, match="'set' is not modelled"):
        walk(_forward("add @s { ip saddr }", more=more), "forward", Packet.any())


def test_bridges_are_refused():
    with pytest.raises(NotModelled, match="bridge b"):
        _load("table bridge b {\n}\n")


def test_an_order_that_nothing_lists_is_refused_where_it_matters():
    two = "table inet {0} {{\nchain c {{\n" + _HOOK + "\n{1}\n}}\n}}\n"
    harmless = two.format("a", "accept") + two.format("b", "tcp dport 80 drop")
    walk(_load(harmless), "forward", Packet.any())
    marking = two.format("a", "accept") + two.format("b", "meta mark set 5")
    with pytest.raises(NotModelled, match="inet b c, rule 1: 'mangle' beside a chain"):
        walk(_load(marking), "forward", Packet.any())


def test_a_chain_at_egress_needs_its_device():
    base = 'type filter hook egress device "eth0" priority 0;'
    text = f"table netdev t {{\nchain c {{\n{base}\ndrop\n}}\n}}\n"
    document = listing([text], [Link("eth0")])
    chain = nftjson.read(document).chain("netdev", "t", "c")
    assert chain.base == Base("filter", "egress", 0, "accept", ("eth0",))
    for entry in document["nftables"]:
        entry.get("chain", {}).pop("dev", None)
    with pytest.raises(NotModelled, match="whose devices are not said"):
        nftjson.read(document)


def test_an_ingress_chain_of_inet_sees_its_own_device_only():
    base = 'type filter hook ingress device "eth0" priority 0; policy drop;'
    found = _load(f"table inet t {{\nchain c {{\n{base}\n}}\n}}\n", Link("eth0"))
    packet = Packet.any()
    through = path.forwarded(found, packet).through
    assert _holds(through, packet.in_name == value("in_name", "vif4.0"))
    assert _holds(through, packet.in_name == value("in_name", "eth0")) is None


_TABLE = {"table": {"family": "inet", "name": "t", "handle": 1}}
_BASE = {"family": "inet", "table": "t", "name": "c", "handle": 2, "type": "filter"}
_BASE |= {"hook": "forward", "prio": 0, "policy": "drop"}
_SET = {"family": "inet", "table": "t", "name": "s", "type": "ipv4_addr"}
_MARKED = {"op": "==", "left": {"meta": {"key": "mark"}}, "right": {"range": [9, 4]}}
_RANGED = {"match": _MARKED}
_INNER = {"tunnel": "vxlan", "protocol": "ip", "field": "daddr"}
_INNER = {"match": {"op": "==", "left": {"payload": _INNER}, "right": "192.0.2.1"}}
_QUEUED = {"vmap": {"key": {"meta": {"key": "mark"}}, "data": {"set": [[5, {"queue": None}]]}}}


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ([{"chain": _BASE}], "table that is not there"),
        ([_TABLE, {"rule": {**_BASE, "chain": "d", "expr": []}}], "chain that is not there"),
        ([_TABLE, {"chain": {**_BASE, "policy": "queue"}}], "policy 'queue'"),
        ([_TABLE, {"flowtable": {**_BASE, "dev": ["eth0", "vif*"]}}], "pattern of devices"),
        ([_TABLE, {"chain": {**_BASE, "hook": "ingress", "dev": "vif*"}}], "pattern of devices"),
        ([_TABLE, {"set": {**_SET, "stmt": [{"limit": {}}]}}], "have statements"),
        (
            [_TABLE, {"chain": _BASE}, {"rule": {**_BASE, "chain": "c", "expr": [_RANGED]}}],
            "the range",
        ),
        (
            [_TABLE, {"chain": _BASE}, {"rule": {**_BASE, "chain": "c", "expr": [_INNER]}}],
            "a header's field with tunnel",
        ),
        (
            [_TABLE, {"chain": _BASE}, {"rule": {**_BASE, "chain": "c", "expr": [_QUEUED]}}],
            "the verdict 'queue'",
        ),
    ],
)
def test_what_nft_would_not_say_or_only_a_newer_one_is_refused(entries, what):
    with pytest.raises(NotModelled, match=what):
        walk(_made(entries), "forward", Packet.any())


@pytest.mark.parametrize("length", [15, 16, 17])
@pytest.mark.parametrize("end", ["", "*"])
def test_a_name_that_no_device_can_have_is_refused(length, end):
    """A device's name has 15 bytes; a longer pattern would be a number of more than 128 bits."""
    match = {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "v" * length + end}
    rule = {"rule": {**_BASE, "chain": "c", "expr": [{"match": match}, {"accept": None}]}}
    packet = Packet.any()
    if length > 15:
        with pytest.raises(NotModelled, match="the ifname 'vvvvvvvvvvvvvvv"):
            walk(_made([_TABLE, {"chain": _BASE}, rule]), "forward", packet)
        return
    through = walk(_made([_TABLE, {"chain": _BASE}, rule]), "forward", packet).accepted
    assert _holds(through, packet.in_name == value("in_name", "v" * 15))
    assert (
        _holds(through, packet.in_name != value("in_name", "v" * 15), packet.in_name & 255 == 0)
        is None
    )


def test_a_header_may_have_any_length_that_ip_allows():
    packet = Packet.any()
    lengths = [
        words
        for words in range(16)
        if _holds(packet.is_ipv4(), packet.header_words == value("header_words", words))
    ]
    assert lengths == [*range(5, 16)]


def test_a_rule_has_its_text():
    [rule] = _forward('iifname "vif*" tcp dport { 53, 80-90 } accept').rules()
    assert rule.text == 'iifname "vif*" tcp dport { 53, 80-90 } accept'
    assert str(rule) == "inet t c, rule 1"


def test_what_nft_refuses_is_told():
    with pytest.raises(UserError, match=r"the rules cannot be loaded: .*syntax error"):
        listing(["table inet {"])


def test_what_cannot_be_loaded_does_not_match_not_even_by_unequal():
    packet = Packet.any()
    out = walk(_forward("tcp dport != 53 accept"), "forward", packet)
    assert _holds(out.accepted, packet.protocol == UDP) is None
    assert _holds(out.accepted, packet.protocol == TCP)
    kind = walk(_forward("meta oifkind != tun accept"), "forward", packet)
    assert _holds(kind.accepted, packet.out_kind == 0) is None


@pytest.mark.parametrize(
    "rule",
    [
        "icmp type echo-request accept",
        # nft lists these as the same; the kernel lets IPv6 with this protocol through.
        "meta l4proto icmp icmp type echo-request accept",
        "meta nfproto ipv6 meta l4proto icmp icmp type echo-request accept",
    ],
)
def test_icmp_type_may_be_of_any_family_because_nft_does_not_list_which(rule):
    packet = Packet.any()
    out = walk(_forward(rule), "forward", packet)
    assert _holds(out.accepted, packet.ethertype == IPV6)
    found = _holds(out.accepted)
    assert (found["protocol"], found["source_port"] >> 8) == (1, 8)
    stopped = walk(_forward(f"{rule[:-6]}drop\naccept"), "forward", packet)
    other = packet.is_ipv6() if "nfproto" not in rule else packet.is_ipv4()
    assert _holds(stopped.accepted, other, packet.is_protocol(1), packet.source_port == 0x0800)


@pytest.mark.parametrize(
    ("family", "rule", "passes"),
    [
        ("inet", "meta nfproto ipv6 reject with tcp reset", Packet.is_ipv4),
        ("inet", "meta nfproto ipv4 tcp dport 80 reject with tcp reset", Packet.is_ipv6),
        ("inet", "meta protocol ip6 reject with tcp reset", Packet.is_ipv4),
        ("ip6", "ip6 nexthdr tcp reject with tcp reset", lambda one: one.next_header == 60),
    ],
)
def test_a_reset_may_be_for_less_than_nft_lists(family, rule, passes):
    packet = Packet.any()
    out = walk(_forward(f"{rule}\naccept", family=family), "forward", packet)
    asked = [packet.is_protocol(TCP), packet.destination_port == 80, passes(packet)]
    asked += [packet.transport_bytes > 13, z3.Not(packet.later_fragment)]
    assert _holds(out.accepted, *asked)
    assert _holds(out.rejected, *asked) is None
    assert _holds(out.rejected)


@pytest.mark.parametrize("rule", ["ether type ip ip saddr 192.0.2.1", "ether type ip6 reject"])
def test_a_hidden_comparison_with_the_link_layer_is_refused(rule):
    """nft lists them as `ip saddr 192.0.2.1` and `reject`; what a tunnel brings is not meant."""
    with pytest.raises(NotModelled, match="inet t c: a comparison with a link's header"):
        _forward(f"{rule} drop" if "saddr" in rule else rule)


@pytest.mark.parametrize("rule", ["continue accept", "meta mark 7 continue continue accept"])
def test_behind_continue_the_rule_goes_on(rule):
    packet = Packet.any()
    assert _holds(walk(_forward(rule), "forward", packet).accepted, packet.mark == 7)


def test_a_chance_is_each_packet_s_own():
    """A flow may begin by luck and go on without it."""
    ruleset, one, other = _forward("limit rate 1/second accept"), Packet.any("a"), Packet.any("b")
    first, second = walk(ruleset, "forward", one), walk(ruleset, "forward", other)
    assert _holds(first.accepted, second.dropped)


def test_inet_and_netdev_have_one_order_at_a_device():
    base = 'type filter hook ingress device "eth0" priority 0;'
    table = "table {0} t {{\nchain c {{\n" + base + "\n{1}\n}}\n}}\n"
    text = table.format("inet", "meta mark 5 accept\ndrop") + table.format(
        "netdev", "meta mark set 5"
    )
    with pytest.raises(NotModelled, match="'mangle' beside a chain of the same priority"):
        walk(_load(text, Link("eth0")), "ingress", Packet.any())


def test_goto_does_not_come_back_and_jump_does():
    more = "chain u {\ntcp dport 80 return\nudp dport 53 drop\n}\n"
    packet = Packet.any()
    came = walk(_forward("jump u\naccept", more=more), "forward", packet)
    assert _holds(came.accepted, packet.is_protocol(TCP))
    assert _holds(came.accepted, packet.is_protocol(UDP), packet.destination_port == 53,
                  packet.transport_bytes > 3, z3.Not(packet.later_fragment)) is None  # fmt: skip
    gone = walk(_forward("goto u\naccept", more=more), "forward", packet)
    assert _holds(gone.accepted) is None


def test_a_nat_chain_runs_where_the_kernel_translates_not_at_its_own_priority():
    text = """table inet t {
        chain n { type nat hook prerouting priority -150; dnat ip to 10.8.0.1; }
        chain before { type filter hook prerouting priority -120; ip daddr 10.8.0.1 drop; }
        chain behind { type filter hook prerouting priority -90; ip daddr != 10.8.0.1 drop; }
    }"""
    packet = Packet.any().having(ethertype=IPV4, first=True, state=STATES["new"])
    out = walk(_load(text), "prerouting", packet)
    asked = [packet.destination != value("destination", "10.8.0.1"), packet.in_index != 1]
    asked.append(packet.well_formed())
    assert _holds(out.accepted, *asked)
    assert _holds(out.accepted, packet.destination == value("destination", "10.8.0.1")) is None
    assert _holds(out.dropped, *asked) is None


def test_tracking_is_behind_raw():
    text = """table inet t {
        chain raw { type filter hook prerouting priority raw; ct state invalid meta mark set 5; }
        chain behind { type filter hook prerouting priority 0; meta mark != 5 drop; }
    }"""
    packet = Packet.any().having(state=STATES["established"], in_index=2)
    assert _holds(walk(_load(text), "prerouting", packet).dropped) is None


def test_a_set_that_is_left_open_may_have_any_element():
    more = "set s { type ipv4_addr; elements = { 1.2.3.4 } }"
    ruleset, packet = _forward("ip daddr @s accept", more=more), Packet.any()
    other = packet.destination == value("destination", "9.9.9.9")
    assert _holds(walk(ruleset, "forward", packet).accepted, other) is None
    open_sets = frozenset({("inet", "t", "s")})
    assert _holds(walk(ruleset, "forward", packet, open_sets=open_sets).accepted, other)


def test_an_ip6_table_does_not_list_nexthdr_so_both_readings_are_possible():
    ruleset = _forward("ip6 nexthdr udp udp dport 53 drop\naccept", family="ip6")
    assert ruleset.chain("ip6", "t", "c").rules[0].text == "udp dport 53 drop"
    packet = Packet.any()
    asked = [packet.is_ipv6(), packet.is_protocol(UDP), packet.destination_port == 53]
    asked += [packet.transport_bytes > 3, z3.Not(packet.later_fragment)]
    out = walk(ruleset, "forward", packet)
    assert _holds(out.accepted, *asked)  # behind an extension header
    assert _holds(out.dropped, *asked, packet.next_header == 60)
    assert _holds(out.accepted, *asked, packet.next_header == UDP) is None


_HOOKED = {"type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}
_FLOW = {"flow": {"op": "add", "flowtable": "@f"}}
_HTTPS = {"payload": {"protocol": "udp", "field": "dport"}}
_HTTPS = {"match": {"op": "==", "left": _HTTPS, "right": 443}}


def _with_flowtable(handle: int, *, closed: int) -> path.Way:
    """A packet that is forwarded where flows to port 443 are offloaded.

    handle: of the flowtable's table.  closed: of one that stops everything.  The kernel that tests
    run on may have no flowtables: nft's JSON is put in.
    """
    fast, slow = {"family": "inet", "table": "fast"}, {"family": "inet", "table": "slow"}
    entries = [
        {"table": {"family": "inet", "name": "fast", "handle": handle}},
        {"flowtable": {**fast, "name": "f", "handle": 1, "dev": ["vif1.0", "eth0"]}},
        {"chain": {**fast, **_HOOKED, "name": "c", "handle": 2}},
        {"rule": {**fast, "chain": "c", "handle": 3, "expr": [_HTTPS, _FLOW, {"counter": None}]}},
        {"table": {"family": "inet", "name": "slow", "handle": closed}},
        {"chain": {**slow, **_HOOKED, "name": "c", "handle": 2, "prio": -10, "policy": "drop"}},
    ]
    return path.forwarded(_made(entries), Packet.any())


def test_an_offloaded_flow_meets_nothing_but_egress():
    """What was offloaded before the rules that would stop it goes on; nothing else does."""
    packet = Packet.any()
    through = _with_flowtable(1, closed=2).through
    there = [packet.is_protocol(UDP), packet.in_name == value("in_name", "vif1.0")]
    onward = [packet.destination_port == 443, z3.Not(packet.reply)]
    assert _holds(through, *there, *onward)
    assert _holds(through, *there, packet.source_port == 443, packet.reply)
    # To that port, or an answer to what was sent from it.
    other = [packet.source_port != 443, packet.destination_port != 443]
    assert _holds(through, *there, *other, packet.flow_new_destination_port != 443,
                  packet.flow_new_source_port != 443) is None  # fmt: skip
    assert _holds(through, *onward, packet.first) is None
    assert _holds(through, packet.is_protocol(TCP)) is None
    assert _holds(through, packet.is_protocol(1)) is None
    assert _holds(through, packet.in_name == value("in_name", "vif2.0")) is None


def test_no_flow_is_offloaded_that_the_rules_stop():
    """Rules that were there before the flowtable: Qubes makes it again for each client (R41)."""
    assert _holds(_with_flowtable(2, closed=1).through) is None
    # Where nft does not say which was there first, the flowtable may have been.
    assert _holds(_with_flowtable(2, closed=0).through)


def test_an_answer_is_offloaded_only_where_its_flow_could_begin():
    """P4 and P5 ask for it: what goes to a client by a flowtable was asked for by the client."""
    fast = {"family": "inet", "table": "t"}
    state = {"op": "in", "left": {"ct": {"key": "state"}}, "right": "new"}
    coming = {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}
    drop = [{"match": state}, {"match": coming}, {"drop": None}]
    entries = [
        {"table": {"family": "inet", "name": "t", "handle": 1}},
        {"flowtable": {**fast, "name": "f", "handle": 1, "dev": ["vif1.0", "eth0"]}},
        {"chain": {**fast, **_HOOKED, "name": "c", "handle": 2}},
        {"rule": {**fast, "chain": "c", "handle": 3, "expr": drop}},
        {"rule": {**fast, "chain": "c", "handle": 4, "expr": [_FLOW]}},
        {"rule": {**fast, "chain": "c", "handle": 5, "expr": [{"drop": None}]}},
    ]
    packet = Packet.any()
    through = path.forwarded(_made(entries), packet).through
    assert _holds(through) is None  # no first packet passes, so nothing follows
    entries.pop()
    through = path.forwarded(_made(entries), packet).through
    came = packet.in_name == value("in_name", "eth0")
    established = packet.in_state("established")
    assert _holds(through, came, established, packet.reply, packet.is_protocol(UDP))


def _jumps(chains: int, targets: int) -> dict:
    """Chains that each jump to the next one, some times."""
    place = {"family": "inet", "table": "t"}
    entries = [_TABLE, {"chain": {**_BASE, "name": "c0"}}]
    entries += [{"chain": {**place, "name": f"c{one}", "handle": 3}} for one in range(1, chains)]
    for one in range(chains - 1):
        jump = {"jump": {"target": f"c{one + 1}"}}
        rule = {"rule": {**place, "chain": f"c{one}", "handle": 4, "expr": [jump]}}
        entries += [rule] * targets
    last = {**place, "chain": f"c{chains - 1}", "handle": 4, "expr": [_DROPPED]}
    return {"nftables": [*entries, {"rule": last}]}


_DROPPED = {"drop": None}
_CHAINS = {"nftables": [_TABLE, *({"chain": {**_BASE, "name": f"{one}"}} for one in range(300))]}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("document", "what"),
    [
        (_jumps(15, 6), "more than 100000 rules and elements"),
        (_jumps(18, 1), "a jump behind 16 others"),
        (
            {
                "nftables": [
                    _TABLE,
                    *[{"chain": {**_BASE, "name": f"c{one}"}} for one in range(300)],
                ]
            },
            "more than 256 chains",
        ),
    ],
)
def test_what_would_take_for_ever_is_refused(document, what):
    """Jumps that double with each chain, as no kernel would have but a liar may say."""
    with pytest.raises(NotModelled, match=what):
        walk(_made(document["nftables"]), "forward", Packet.any())
    walk(_made(_jumps(17, 1)["nftables"]), "forward", Packet.any())


@pytest.mark.parametrize("flags", ["Lester Gooch #5", "", [], None])
def test_a_table_with_any_flags_is_refused(flags):
    """A dormant one has no rules in force; nft 1.0.6 writes anything for its flag."""
    table = {"table": {**_TABLE["table"], "flags": flags}}
    with pytest.raises(NotModelled, match="a table with flags"):
        nftjson.read({"nftables": [table]})


@pytest.mark.parametrize("family", ["ip6", "inet"])
def test_a_protocol_that_nft_does_not_list_is_known(family):
    """nft 1.0.6 leaves it out before any protocol's ports; newer ones write what is refused."""
    packet = Packet.any()
    ruleset = _forward("meta l4proto icmp th sport 1000-2000 accept", family=family)
    try:
        accepted = walk(ruleset, "forward", packet).accepted
    except NotModelled:
        return
    assert _holds(accepted, packet.protocol == 1)
    assert _holds(accepted, packet.protocol == UDP, packet.is_ipv6()) is None


def test_a_protocol_that_is_put_back_stands_before_what_reads_it():
    dport = {"payload": {"protocol": "th", "field": "dport"}}
    match = {"match": {"op": "==", "left": dport, "right": 53}}
    changed = {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 5}}
    listed = {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "udp"}}
    rule = {"family": "inet", "table": "t", "chain": "c", "expr": [listed, match]}
    bytecode.put_back(rule, [("l4proto", UDP)])
    assert rule["expr"] == [listed, match]
    bytecode.put_back(rule, [("l4proto", UDP), ("6", 43)])
    [_, added, _] = rule["expr"]
    assert added["match"]["right"] == 43
    with pytest.raises(NotModelled, match="a change before it"):
        bytecode.put_back({**rule, "expr": [changed, match]}, [("l4proto", 47)])


def test_later_fragments_are_told_by_their_offset():
    packet = Packet.any()
    dropped = walk(_forward("ip frag-off & 0x1fff != 0 accept"), "forward", packet)
    assert _holds(dropped.accepted, packet.later_fragment)
    assert _holds(dropped.accepted, z3.Not(packet.later_fragment)) is None
    assert _holds(dropped.dropped, packet.later_fragment, packet.is_ipv4()) is None


def test_one_concrete_packet_is_judged_by_the_same_terms():
    packet = Packet.any()
    out = walk(_forward("ip daddr 10.0.0.0/8 udp dport 50-60 reject\naccept"), "forward", packet)
    asked = {
        "ethertype": IPV4, "destination": "10.1.2.3", "protocol_known": True, "protocol": UDP,
        "destination_port": 53, "transport_bytes": 8, "later_fragment": False,
    }  # fmt: skip
    assert [str(one) for one in at([out.accepted, out.rejected], packet, asked)] == [
        "False",
        "True",
    ]
    asked["destination"] = "11.1.2.3"
    assert [str(one) for one in at([out.accepted, out.rejected], packet, asked)] == [
        "True",
        "False",
    ]


def test_the_three_ends_exclude_each_other_and_leave_no_other():
    rules = "ct state new limit rate 3/second accept\nmeta mark 5 reject\nudp dport 53 drop\naccept"
    out = walk(_forward(rules), "forward", Packet.any())
    ends = [out.accepted, out.dropped, out.rejected]
    packet = Packet.any()
    address = z3.Or(packet.is_ipv4(), packet.is_ipv6())
    assert _holds(address, z3.Not(z3.PbEq([(end, 1) for end in ends], 1))) is None
