# SPDX-License-Identifier: GPL-2.0-or-later
"""R91: P1 to P8 are proven of ours, and refuted, by a packet, of ours with a fault."""

import runpy
import types
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import qubes_vpn_model
from qubes_vpn_formula.lab import mutants
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.mutants import Mutant, edits
from qubes_vpn_formula.lab.mutants.paths import CLOSED, core
from qubes_vpn_formula.prove import collect, machine, prover, report
from qubes_vpn_formula.prove.machine import Place
from qubes_vpn_formula.prove.sources import Part, lines

GOLDEN = runpy.run_path(str(Path(__file__).parents[1] / "salt/pillars.py"))["PILLARS"]
#: Every kind of endpoint's rule, the log, a resolver.
PILLAR = {
    "topology": "custom",
    "tunnels": {
        "sys-vpn": {
            "kind": "openvpn",
            "profile": "se.ovpn",
            "endpoints": [
                "198.51.100.0/24:1194/udp",
                "203.0.113.9:443/tcp",
                "[2001:db8::7]:443/tcp",
            ],
            "upstream": "sys-net",
            "log_drops": True,
        }
    },
    "resolvers": {"sys-dns": {"upstream": "sys-vpn"}},
    "routes": {"default": "sys-dns"},
}
RULES = "salt/qubes/network/files/closed.nft"
#: Faults in the rules that break no property, and why.
HARMLESS = {
    "input-open": "no property is about programs in the VPN qube, but for clients' DNS",
    "postrouting-open": "it is there for what other rules translate, and here none does",
    "silent-drop": "clients wait instead of being told",
    "no-mss-clamp": "the MSS is not modelled",
    "log-unlimited": "how much is logged is no property",
}
#: Those whose rules cannot be loaded before there is a tunnel.
NOT_LOADED = {"tunnel-by-index"}
#: Those that show only with a flowtable of Qubes', which has a test of its own.
NOT_BY_THEMSELVES = {"flowtable-kept"}
#: A fault of each property's own that `make test` looks at; all are slow.
FAST = {
    "forward-open": "P1",
    "copies-are-own": "P1",
    "endpoint-on-the-way": "P2",
    "route-half-used": "P2",
    "no-gate": "P2",
    "fragments-pass": "P2",
    "endpoint-any-port": "P2",
    "dns-anywhere": "P3",
    "dns-port-changed": "P3",
    "related-anything": "P4",
    "clients-to-clients": "P5",
    "dns-one-address": "P6",
    "no-path-mtu": "P6",
}
ICMP_OPEN = mutants.named("icmp-open")


def places_of(document: dict) -> list[Place]:
    return list(machine.places(qubes_vpn_model.build(document)))


def opened() -> Place:
    """The VPN qube as it runs."""
    return next(place for place in places_of(PILLAR) if "P6" in place.properties)


def broken(place: Place) -> set[str]:
    """The properties that do not hold of it, or of which nothing can be said."""
    return {answer.property for answer in prover.prove([place]) if not answer.holds}


def with_fault(place: Place, mutant: Mutant) -> Place:
    """*place* with what the mutant would load."""
    files = {**Ours().files(), **mutant.files()}
    ruleset = types.ModuleType("ruleset")
    exec(files[core("ruleset")][0], ruleset.__dict__)  # noqa: S102 -- the project's own file
    read = machine._read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "qubes_vpn_ruleset", ruleset)
        patch.setattr(
            machine, "_read", lambda path: files[CLOSED][0] if path == RULES else read(path)
        )
        faulty = [
            one for one in places_of(PILLAR) if (one.qube, one.stage) == (place.qube, place.stage)
        ]
    (found,) = faulty
    assert [part.name for part in found.parts] == [part.name for part in place.parts]
    return replace(place, parts=found.parts)


def in_rules() -> list[str]:
    """The mutants whose rules differ from ours."""
    place = opened()
    return [
        mutant.name
        for mutant in mutants.all()
        if CLOSED in mutant.files() and with_fault(place, mutant) != place
        if mutant.name not in NOT_BY_THEMSELVES
    ]


def test_everything_is_proven_of_ours() -> None:
    """In each moment of the VPN qube, of the resolver qube, and of what the upstream admits."""
    places = places_of(PILLAR)
    answers = list(prover.prove(places))
    assert [answer for answer in answers if not answer.holds] == []
    assert {answer.property for answer in answers} == {f"P{number}" for number in range(1, 9)}
    assert {place.qube for place in places} == {"sys-vpn", "sys-net", "sys-dns"}
    assert sum(place.between for place in places) == 6


@pytest.mark.parametrize("name", [*GOLDEN, "example"])
def test_everything_is_proven_of_every_golden_pillar(name: str, pillar_example: str) -> None:
    document = GOLDEN.get(name) or yaml.safe_load(pillar_example)["qubes_vpn"]
    answers = list(prover.prove(places_of(document)))
    assert {"P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8"} <= {one.property for one in answers}
    assert [answer for answer in answers if not answer.holds] == []


#: Rules that a reader of nft's listing takes for harmless, and the property that they break.
TRAPS = {
    "insert rule inet qubes_vpn forward continue accept\n"
    "insert rule inet qubes_vpn postrouting continue accept\n"
    "insert rule netdev qubes_vpn egress-2 continue accept\n": "P1",
    "insert rule inet qubes_vpn input meta skuid 0 accept\n": "P3",
}


@pytest.mark.parametrize("rules", TRAPS)
def test_what_looks_harmless_is_found(rules: str) -> None:
    place = replace(opened(), properties=(TRAPS[rules],))
    assert broken(place) == set()
    trapped = replace(place, parts=(*place.parts, Part("the user's own", rules)))
    assert broken(trapped) == {TRAPS[rules]}


@pytest.mark.parametrize("name", FAST)
def test_a_fault_of_each_kind_is_found(name: str) -> None:
    place = replace(opened(), properties=(FAST[name],))
    assert broken(with_fault(place, mutants.named(name))) == {FAST[name]}


def test_a_counterexample_is_a_packet_that_people_know() -> None:
    """Of ICMP a ping: conntrack takes no other message for the first of a flow."""
    place = replace(opened(), properties=("P1",))
    found = [one.counterexample for one in prover.prove([with_fault(place, ICMP_OPEN)])]
    assert found[0]["told"].startswith("IPv4 icmp type 8 code 0 from 10.137.0.4 to 203.0.113.80")


@pytest.mark.parametrize("name", ["ours", "dns-port-changed"])
def test_a_question_that_a_users_rule_sends_to_another_port_is_stopped(name: str) -> None:
    """R50: translated before our own rules are asked."""
    hook = "type nat hook prerouting priority dstnat - 20; policy accept;"
    rule = "udp dport 53 dnat to 10.64.0.9:5353"
    user = Part("user's", f"table ip user {{ chain before {{ {hook} {rule}; }}; }}\n")
    place = replace(opened(), properties=("P3",))
    if name != "ours":
        place = with_fault(place, mutants.named(name))
    answers = list(prover.prove([replace(place, parts=(*place.parts, user))]))
    assert [answer.holds for answer in answers] == [name == "ours", True]
    if name != "ours":
        steps = [step["does"] for step in answers[0].counterexample["path"]]
        assert "dnat" in steps


#: As network/vif-route-qubes of qubes-core-agent-linux makes it for each client that comes.
_IN = {"family": "inet", "table": "qubes-nat-accel"}
_GROUPS = [
    {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right}}
    for key, right in (("l4proto", {"set": ["tcp", "udp"]}), ("iifgroup", 2), ("oifgroup", 1))
]
_ACCELERATION = [
    {"flowtable": {**_IN, "name": "qubes-accel", "handle": 1, "dev": ["lo", "eth0", "vif4.0"]}},
    {"chain": {**_IN, "name": "qubes-accel", "handle": 2, "type": "filter", "hook": "forward",
               "prio": 5, "policy": "accept"}},
    {"rule": {**_IN, "chain": "qubes-accel", "handle": 3, "complete": True,
              "expr": [*_GROUPS, {"flow": {"op": "add", "flowtable": "@qubes-accel"}}]}},
]  # fmt: skip


def with_flowtable(place: Place, *, before_ours: bool) -> Place:
    """As nft would list it; the kernel that tests run on may have no flowtables."""
    links = [collect.Link(name, 1) for name in place.devices]
    entries = collect.listing([part.text for part in place.parts], links)["nftables"]
    for entry in entries:
        if table := entry.get("table"):
            table["handle"] *= 2
            if (table["family"], table["name"]) == ("inet", "qubes_vpn"):
                ours = table["handle"]
    own = {"family": "inet", "name": "qubes-nat-accel", "handle": ours + (-1 if before_ours else 1)}
    document = {"nftables": [*entries, {"table": own}, *_ACCELERATION]}
    return replace(place, parts=(), document=document)


def test_a_flowtable_that_qubes_makes_again_refutes_nothing() -> None:
    """R41: behind our rules, for the next client; what they stop is offloaded by no later one."""
    answers = list(prover.prove([with_flowtable(opened(), before_ours=False)]))
    assert [answer for answer in answers if not answer.holds] == []


def test_a_flowtable_that_a_load_leaves_is_found() -> None:
    """The flows that it has from before go on, past the rules."""
    place = with_fault(replace(opened(), properties=("P1",)), mutants.named("flowtable-kept"))
    answers = list(prover.prove([with_flowtable(place, before_ours=True)]))
    assert [answer.holds for answer in answers] == [False, True]
    assert answers[0].counterexample["packet"]["first"] is False
    assert list(report.lines(answers[0].counterexample))[-1].startswith("  it gets out past these")
    # By the gate's device nothing leaves that was offloaded, whatever the load left.
    place = replace(opened(), properties=("P1",))
    answer = next(iter(prover.prove([with_flowtable(place, before_ours=True)])))
    assert answer.counterexample["ends_as"]["out_name"] != "eth0"


@pytest.mark.parametrize(
    ("chain", "pattern", "text"),
    [
        ("client_out", ".* related", "a client's errors about answers get into the tunnel"),
        ("output", "oifname @tunnel_names", "the VPN qube's own packets get into the tunnel"),
        ("output", "oifgroup 2", "the VPN qube's answers to clients, and its errors about"),
        ("from_client", "icmp type", "a client's ping comes in"),
        ("output", "jump neighbours", "IPv6 neighbours on the uplink are asked, and answered"),
        ("input", "jump neighbours", "they ask, and answer, too"),
    ],
)
def test_what_has_to_work_and_does_not_is_found(chain: str, pattern: str, text: str) -> None:
    """P6, each by the rule that it needs."""
    fault = Mutant("test", "", (edits.without(chain, pattern),), ())
    place = with_fault(replace(opened(), properties=("P6",)), fault)
    wrong = [answer for answer in prover.prove([place]) if not answer.holds]
    assert [answer.text[: len(text)] for answer in wrong] == [text]
    assert wrong[0].counterexample["leaves"] is False


def test_a_gate_that_stops_arp_is_found() -> None:
    place = replace(opened(), properties=("P6",))
    parts = tuple(
        part._replace(text=part.text.replace("protocol arp accept", "protocol arp counter"))
        for part in place.parts
    )
    assert parts != place.parts
    wrong = [answer for answer in prover.prove([replace(place, parts=parts)]) if not answer.holds]
    assert [answer.text for answer in wrong] == ["ARP leaves by any device"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*in_rules()} - NOT_LOADED))
def test_every_fault_in_the_rules_is_found(name: str) -> None:
    assert bool(broken(with_fault(opened(), mutants.named(name)))) == (name not in HARMLESS)


@pytest.mark.parametrize(
    ("kind", "does"), [("nat", "dnat to 198.51.100.77"), ("route", "meta mark set 5")]
)
def test_what_is_routed_again_is_asked_for_its_new_device(kind: str, does: str) -> None:
    """Somebody's rule sends a packet that was for the tunnel out by the uplink."""
    chain = f"type {kind} hook output priority -150; ip daddr 10.64.0.1 {does};"
    user = Part("user's", f"table ip user {{ chain out {{ {chain} }}; }}\n")
    place = replace(opened(), properties=("P1", "P2", "P6"))
    ours = replace(place, parts=(*place.parts, user))
    assert broken(ours) == set()
    fault = with_fault(place, mutants.named("postrouting-open"))
    # The gate is on eth0 only: of another uplink the chain at postrouting is all there is.
    fault = replace(fault, parts=(*fault.parts, user), facts=replace(place.facts, guarded=()))
    answer = next(one for one in prover.prove([fault]) if one.property == "P2" and not one.holds)
    assert answer.counterexample["packet"]["out_name"] == "tun0"
    # The solver may call the other device by any name, but it is none that a tunnel has.
    before, after = answer.counterexample["packet"], answer.counterexample["ends_as"]
    assert any(before[field] != after[field] for field in ("out_index", "out_name", "out_kind"))


def test_a_list_that_admits_more_is_found() -> None:
    """P8, by the rule of the list that does."""
    place = next(place for place in places_of(PILLAR) if place.properties == ("P8",))
    name = "dom0's list of sys-vpn"
    texts = {name: "udp dport 1194 accept", "": ""}
    parts = tuple(
        part._replace(text=part.text.replace(texts[name], "udp dport 1194-1195 accept"))
        for part in place.parts
    )
    assert parts != place.parts
    (answer,) = prover.prove([replace(place, parts=parts)])
    assert answer.holds is False
    assert answer.counterexample["packet"]["destination_port"] == 1195
    steps = [step for step in answer.counterexample["path"] if step.get("file") == name]
    assert steps[-1]["does"] == "accept"
    assert "dport 1194-1195" in steps[-1]["text"]


def test_a_resolver_qube_that_forwards_dns_is_found() -> None:
    place = next(place for place in places_of(PILLAR) if place.qube == "sys-dns")
    closed = "salt/qubes/network/files/dns-closed.nft"
    for fault in ("th dport { 53, 853 } goto not_forwarded", "th dport { 53, 853 } goto dropped"):
        parts = [
            part._replace(text=part.text.replace(fault, "th dport 853 counter"))
            if part.name == closed
            else part
            for part in place.parts
        ]
        assert parts != list(place.parts)
        assert broken(replace(place, parts=tuple(parts))) == {"P3"}


def test_what_is_not_modelled_is_refused() -> None:
    """Not taken for harmless, and said with its place."""
    more = Part("more", "add rule inet qubes_vpn input meta cpu 1 accept\n")
    place = opened()
    *_, answer = prover.prove([replace(place, parts=(*place.parts, more))])
    assert answer.holds is None
    assert answer.trouble.startswith("inet qubes_vpn input, rule 6")
    assert "not modelled" in answer.trouble


def test_the_path_names_files_and_lines(checkout: Path) -> None:
    """R91: the lines that it names have the rules that it shows."""
    place = with_fault(opened(), mutants.named("dns-anywhere"))
    found = next(a.counterexample for a in prover.prove([replace(place, properties=("P3",))])
                 if a.counterexample)  # fmt: skip
    texts = {part.name: part.text.splitlines() for part in place.parts}
    steps = [step for step in found["path"] if "file" in step]
    assert {step["file"] for step in steps} >= {RULES, "Qubes: base.nft"}
    for step in steps:
        assert step["text"] in texts[step["file"]][step["line"] - 1]
    hooks = [step["hook"] for step in found["path"]]
    assert hooks == sorted(hooks, key=("prerouting", "forward", "postrouting", "egress").index)
    assert found["told"].startswith("IPv4 udp from 10.137.0.4:40000 to 203.0.113.53:53, in by vif4")


@pytest.mark.parametrize(
    "place", places_of(PILLAR), ids=lambda place: f"{place.qube}-{place.stage}"
)
def test_every_rule_has_its_line(place: Place) -> None:
    """As many lines as the kernel has rules, in each chain; and they begin as nft lists them."""
    known = lines(place.parts)
    for chain in prover.ruleset(place).chains():
        found = known.get((chain.family, chain.table, chain.name), [])
        assert len(found) == len(chain.rules), chain
        for rule, line in zip(chain.rules, found, strict=True):
            assert rule.text.split()[:1] == line.text.split()[:1], (str(line), rule.text)
