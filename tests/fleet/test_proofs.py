# SPDX-License-Identifier: GPL-2.0-or-later
"""R91, R95: each machine of a fleet is proven, machines with the same rules by one proof."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.fleet import examine, proof, workers
from qubes_vpn_formula.fleet.folder import Machine
from qubes_vpn_formula.prove import collect, machine
from qubes_vpn_formula.prove.machine import Place
from qubes_vpn_formula.prove.sources import Part
from qubes_vpn_model import Model

OTHER = 'qubes_vpn: {tunnels: {sys-vpn: {endpoints: ["198.51.100.9:51820/udp"]}}}'


def test_the_same_rules_are_proven_once(fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """And told of each machine with its own qubes' names."""
    fleet.write(
        a="qubes_vpn: {}",
        b="qubes_vpn: {tunnels: {sys-vpn: {memory: 500}}}",
        c=OTHER,
    )
    loaded = []
    listing = collect.listing

    def counted(texts, links):
        loaded.append(texts)
        return listing(texts, links)

    monkeypatch.setattr(collect, "listing", counted)
    code, text = fleet.run("check", "--jobs", "1", "--json")
    content = json.loads(text)
    assert code == 0
    assert {one["verdict"] for one in content["machines"]} == {"proven"}
    a, b, c = (one["rulesets"] for one in content["machines"])
    assert a == b
    assert [one["stage"] for one in a] == [one["stage"] for one in c]
    digests = {one["digest"] for one in (*a, *b, *c)}
    assert len(loaded) == len(digests) == content["rulesets"]["different"]
    assert len(a) < len(digests) < 2 * len(a), "what is closed does not depend on endpoints"


def test_what_is_refuted_is_not_built(fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two machines one has a hole, which a proof of the other must not hide."""
    places = machine.places

    def holed(model: Model) -> Iterator[Place]:
        for place in list(places(model))[:2]:
            if place.stage.startswith("open, with Qubes'") and "198.51.100.9" in str(place.facts):
                hole = Part("a hole", "insert rule inet qubes_vpn client_asks accept\n")
                place = replace(place, parts=(*place.parts, hole))
            yield place

    monkeypatch.setattr(machine, "places", holed)
    fleet.write(good="qubes_vpn: {}", leaky=OTHER)
    words = ["build", "--output", str(fleet.output), "--jobs", "1", "--page"]
    page = fleet.output.with_name("page.html")
    code, text = fleet.run(*words, str(page))
    assert code == 1
    assert "REFUTED  P3" in text
    assert "2 machines: 1 proven, 1 refuted, 1 built" in text
    assert [one.name for one in (fleet.output / "bundles").iterdir()] == ["good"]
    assert "leaky" not in (fleet.output / "pillar/top.sls").read_text()
    assert "REFUTED" in page.read_text()


def test_what_cannot_be_asked_is_not_proven(fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a traceback, and not a proof."""

    def fails(texts, links):
        raise UserError("the rules cannot be loaded: no nft", "Install nftables.")

    monkeypatch.setattr(collect, "listing", fails)
    fleet.write(a="qubes_vpn: {}", b="qubes_vpn: {}")
    code, text = fleet.run("build", "--output", str(fleet.output), "--jobs", "1")
    assert code == 1
    assert "UNKNOWN" in text
    assert "no nft" in text
    assert "    a, b" in text
    assert not fleet.output.exists()


def test_answers_are_as_of_a_proof_of_one_machine(fleet) -> None:
    """Also when another process gave them for another machine's rules."""
    from qubes_vpn_formula.prove import prover

    fleet.write(a="qubes_vpn: {}", b="qubes_vpn: {}")
    files = (str(fleet.folder / "base.sls"), str(fleet.folder / "b.sls"))
    machines = [Machine("a", (*files[:1], str(fleet.folder / "a.sls"))), Machine("b", files)]
    with workers.workers(2) as shared:
        found = [
            one._replace(rulesets=one.rulesets[:3]) for one in examine.examine(machines, shared)
        ]
        answers = list(proof.prove(found, shared).of(found[1]))
    places = [examine.place(found[1].pillar, n) for n in range(len(found[1].rulesets))]
    alone = list(prover.prove(places))
    assert [replace(one, seconds=0) for one in answers] == [
        replace(one, seconds=0) for one in alone
    ]


def test_the_digest_knows_all_that_is_claimed(tmp_path: Path) -> None:
    """Another rule, another claim, another fact: another proof; another qube's name: the same."""
    text = "qubes_vpn: {topology: simple, tunnels: {sys-vpn: {kind: wireguard, profile: a.conf, "
    one = examine.place(text + 'endpoints: ["192.0.2.1:1/udp"]}}}', 0)
    others = [
        replace(one, parts=one.parts[1:]),
        replace(one, properties=one.properties[1:]),
        replace(one, facts=replace(one.facts, guarded=())),
        replace(one, facts=replace(one.facts, clients={})),
        replace(one, devices=()),
        replace(one, without="policies"),
        replace(one, between=True),
    ]
    digests = {examine.digest(place) for place in (one, *others)}
    assert len(digests) == 1 + len(others)
    assert examine.digest(replace(one, qube="x", stage="y")) == examine.digest(one)
