# SPDX-License-Identifier: GPL-2.0-or-later
"""What is proven of a machine with each named topology, and what is not claimed (R88, R91)."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from core.test_topologies import LEAST, build, document
from faulty_rules import MARK, faulty

import qubes_vpn_layout
import qubes_vpn_model
from qubes_vpn_formula.cli import main
from qubes_vpn_formula.prove import machine, prover
from qubes_vpn_formula.prove.machine import Place

ALL = {"P1", "P2", "P3", "P4", "P5", "P6"}
BANK = ["www.bank.example:443/tcp", "203.0.113.80:8000-8010/tcp", "[2001:db8::b]:443/tcp", "icmp"]
#: Those with a way past the VPN.
CLEAR = ("parallel", "mixed")


def lived_in(topology: str) -> dict:
    """With all that R05, R07, R10 and R11 have: the canonical qubes, a bank, what is in clear."""
    bank = {"allowlist": [*BANK, "dns"], "firewall": "sys-firewall-bank"}
    keys = {
        "layout": {**{name: {} for name in qubes_vpn_layout.PRESETS}, "banking": bank},
        "updates": {"templates": "sys-net", "outside_vpn": ["templates"]},
    }
    if topology in CLEAR:
        netvm = "sys-firewall-novpn"
        keys["routes"], keys["outside_vpn"] = {"qubes": {"games": netvm}}, ["games"]
        keys["bypass"] = {"netvm": netvm, "name": "portal"}
    return document(topology, **keys)


def places_of(topology: str) -> list[Place]:
    return list(machine.places(qubes_vpn_model.build(lived_in(topology))))


def once_each(places: list[Place]) -> Iterator[Place]:
    """Of each qube with rules, and each list, the one as it runs."""
    seen = set()
    for place in places:
        if (place.qube, place.list_of) not in seen:
            seen.add((place.qube, place.list_of))
            yield place


@pytest.mark.parametrize("topology", LEAST)
def test_a_machine_that_is_lived_in_is_proven(topology: str) -> None:
    """All of it, the bank's own list too."""
    places = places_of(topology)
    answers = list(prover.prove(places))
    assert [one for one in answers if not one.holds] == []
    asked = {(one.qube, one.stage) for one in answers}
    assert asked == {(place.qube, place.stage) for place in places}
    assert ("sys-firewall-bank", "the list of banking") in asked


@pytest.mark.parametrize("topology", LEAST)
def test_a_fault_in_each_network_qube_is_refuted(topology: str) -> None:
    """R90: by a packet, and its path has the line that is at fault."""
    places = list(once_each(places_of(topology)))
    assert {place.qube for place in places} >= {"sys-firewall-bank"} | (
        {*LEAST[topology][1].split()} & {"sys-vpn", "sys-vpn-entry", "sys-dns", "sys-firewall-tor"}
    )
    for place in places:
        wrong = faulty(place)
        refuted = [one for one in prover.prove([wrong]) if one.holds is False]
        assert [one.qube for one in refuted] == [place.qube]
        found = refuted[0].counterexample
        assert (found["qube"], found["leaves"]) == (place.qube, True)
        texts = {part.name: part.text.splitlines() for part in wrong.parts}
        steps = [step for step in found["path"] if MARK in step["text"]]
        assert steps
        for step in steps:
            assert step["text"] in texts[step["file"]][step["line"] - 1]


@pytest.mark.parametrize("name", ["sys-vpn", "sys-vpn-entry"])
def test_of_two_tunnels_the_one_at_fault_is_named(name: str) -> None:
    """Asked about all as they run, side by side."""
    places = [
        faulty(one) if one.qube == name and not one.list_of else one
        for one in once_each(places_of("multihop"))
    ]
    wrong = [one for one in prover.prove(places) if not one.holds]
    assert [(one.property, one.qube, one.counterexample["qube"]) for one in wrong] == [
        ("P1", name, name)
    ]


def test_an_allowlist_lets_through_what_is_on_it() -> None:
    """R11. P8 is no rule set that drops everything: each entry with its ports, names and ICMP."""
    place = places_of("dns")[-1]
    text = place.parts[-1].text
    for port in ("443", "8000-8010", "53"):
        assert f"dport {port} accept" in text
    assert "ip protocol icmp accept" in text
    assert "ip6 nexthdr icmpv6 accept" in text
    assert (place.qube, place.list_of) == ("sys-firewall-bank", "banking")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("ip protocol icmp accept", "icmp"),
        ("ip daddr 10.139.1.1 udp dport 54 accept", ":54"),
        ("ip daddr 203.0.113.80 udp dport 8000 accept", "udp"),
        ("ip daddr 203.0.113.81 tcp dport 8000 accept", "203.0.113.81"),
    ],
)
def test_an_allowlist_that_lets_through_more_is_refuted(more: str, told: str) -> None:
    """Of a list without ICMP, too."""
    pillar = lived_in("dns")
    pillar["layout"]["banking"]["allowlist"].remove("icmp")
    place = list(machine.places(qubes_vpn_model.build(pillar)))[-1]
    *parts, listed = place.parts
    head = "add rule ip qubes-firewall qbs-10-137-0-4 "
    listed = listed._replace(text=listed.text.replace(head, f"{head}{more}\n{head}", 1))
    (answer,) = prover.prove([replace(place, parts=(*parts, listed))])
    assert answer.holds is False
    assert told in answer.counterexample["told"]


@pytest.mark.parametrize("topology", LEAST)
def test_each_tunnel_resolver_and_upstream_is_asked_about(topology: str) -> None:
    """Both tunnels of multihop, the list of the inner one in the outer; the firewall before Tor."""
    model = build(topology)
    places = list(machine.places(model))
    lists = {(place.list_of, place.qube) for place in places if place.properties == ("P8",)}
    way = LEAST[topology][1].split()
    tunnels = [name for name in way if name in model.tunnels()]
    assert lists == {(name, way[way.index(name) + 1]) for name in tunnels}
    whole = [place.qube for place in places if {*place.properties} == ALL]
    assert sorted(whole) == sorted(tunnels)
    resolvers = {place.qube for place in places if place.properties == ("P3R",)}
    assert resolvers == {*way} & {"sys-dns"}


@pytest.mark.parametrize("topology", LEAST)
def test_whonix_own_rules_are_not_claimed(topology: str) -> None:
    told = machine.not_claimed(build(topology))
    assert bool(told) == (topology == "mixed" or "sys-whonix" in LEAST[topology][1])


def test_whoever_hangs_on_whonix_by_a_route_is_told_too() -> None:
    assert machine.not_claimed(build("dns", routes={"qubes": {"anon": "sys-whonix"}}))


@pytest.mark.parametrize("topology", ["parallel", "mixed"])
def test_who_is_past_the_vpn_is_not_claimed(topology: str) -> None:
    """R05. All that is asked about is proven, and that is not all that gets out."""
    netvm = "sys-firewall-novpn"
    routes = {"qubes": {"bank": netvm, "work": "sys-firewall", "off": "none"}}
    told = machine.not_claimed(build(topology, routes=routes, outside_vpn=["bank"]))
    assert [one.split()[0] for one in told if "past the VPN" in one] == ["bank"]
    bypass = {"netvm": netvm, "name": "portal"}
    told = machine.not_claimed(build(topology, bypass=bypass))
    assert [one.split()[0] for one in told if "past the VPN" in one] == ["portal"]


def test_all_that_is_not_claimed_is_said_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """As text, JSON and a page: by choice, for some time, for updates, and by Whonix' rules."""
    file, page = tmp_path / "pillar.sls", tmp_path / "proof.html"
    file.write_text(yaml.safe_dump({"qubes_vpn": lived_in("mixed")}))
    words = ["prove", str(file), "--page", str(page)]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["not_claimed"]
    assert [one.split()[0] for one in told] == ["games", "updates", "portal", "sys-whonix"]
    for one in told:
        assert f"not claimed: {one}" in text.splitlines()
        assert f"<li>Not claimed: {one.replace(chr(39), '&#39;')}</li>" in page.read_text()
