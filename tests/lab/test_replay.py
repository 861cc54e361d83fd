# SPDX-License-Identifier: GPL-2.0-or-later
"""R91: what a proof refutes, a kernel lets through; every guide's killswitch among it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import MakeLab
from faulty_rules import faulty

import qubes_vpn_model
from qubes_vpn_formula.cli import main
from qubes_vpn_formula.lab import chains, guides, replay, topology
from qubes_vpn_formula.lab.killswitches import Absent
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.prove import collect, machine, prover
from qubes_vpn_net import endpoint

WIREGUARD = {"kind": "wireguard", "profile": "wg.conf", "endpoints": ["192.0.2.1:51820/udp"]}
PILLAR = {"topology": "simple", "tunnels": {"sys-vpn": WIREGUARD}}
KILLSWITCHES = {one.name: one for one in (Absent(), *guides.all())}


def said(qube: Qube) -> str:
    """What a user collects of a qube's rules."""
    listed = ("nft", "-j"), ("nft", "-a", "-t", "--debug=netlink")
    return "".join(qube.run([*words, "list", "ruleset"]).stdout for words in listed)


@pytest.fixture(scope="module")
def counterexample() -> dict:
    """Of ours, whose forward chain begins with an accept, and nothing looks behind it."""
    place = faulty(next(machine.places(qubes_vpn_model.build(PILLAR))))
    return next(one.counterexample for one in prover.prove([place]) if one.counterexample)


def test_the_kernel_agrees_with_a_counterexample(namespaces, counterexample) -> None:
    done = replay.replay(counterexample)
    assert done.agrees
    assert len(done.left) == 1
    assert "203.0.113.80:443" in done.left[0]


def test_it_does_not_agree_with_what_is_not_true(namespaces, counterexample) -> None:
    """The same packet with the rules as they are; and said to be stopped where it is not."""
    place = next(machine.places(qubes_vpn_model.build(PILLAR)))
    done = replay.replay({**counterexample, "rules": place.text})
    assert (done.agrees, done.left) == (False, ())
    assert not replay.replay({**counterexample, "leaves": False}).agrees


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "established"},
        {"state": "established", "reply": True},
        {"state": "untracked"},
        {"state": "invalid", "protocol": 6, "tcp_flags": 16},
        {"state": "related", "protocol": 1, "source_port": 0x0301, "original_protocol": 17},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_a_packet_is_in_the_state_that_it_is_to_be_in(namespaces, counterexample, changes) -> None:
    """It passes rules that let nothing else pass."""
    state = changes["state"]
    rules = f"""table inet only {{
    chain forward {{
        type filter hook forward priority 0; policy drop;
        ct state {state} counter accept
    }}
}}
"""
    packet = {**counterexample["packet"], **changes}
    found = {**counterexample, "packet": packet, "ends_as": packet, "rules": rules}
    assert replay.replay(found).agrees
    other = rules.replace(f"ct state {state}", f"ct state != {state}")
    assert not replay.replay({**found, "rules": other}).agrees


@pytest.mark.parametrize(
    ("changes", "ends", "why"),
    [
        ({"state": "related"}, {}, "only errors are made"),
        ({"state": "established", "first": False}, {"destination_port": 1194}, "port was trans"),
        ({}, {"out_name": "eth1"}, "routed again"),
        ({}, {"destination": "227.202.0.0"}, "multicast"),
        ({"state": "established", "first": False}, {"state": "invalid"}, "offloaded"),
    ],
)
def test_what_cannot_be_made_is_not_taken_for_an_answer(
    namespaces, counterexample, changes: dict, ends: dict, why: str
) -> None:
    packet = {**counterexample["packet"], **changes}
    found = {**counterexample, "packet": packet, "ends_as": {**packet, **ends}}
    found["offloaded"] = why == "offloaded"
    with pytest.raises(replay.CannotReplay, match=why):
        replay.replay(found)


def test_the_command_says_what_the_kernel_does(
    namespaces, counterexample, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    proof = tmp_path / "proof.json"
    proof.write_text(json.dumps({"answers": [{"counterexample": counterexample}]}))
    assert main(["lab", "--replay", str(proof), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["property"], told["agrees"]) == ("P1", True)
    proof.write_text(json.dumps({"answers": []}))
    assert main(["lab", "--replay", str(proof)]) == 0
    proof.write_text("{}")
    assert main(["lab", "--replay", str(proof)]) == 2
    assert "qubes-vpn prove PILLAR --json" in capsys.readouterr().err


@pytest.mark.slow
def test_a_fault_in_any_qube_of_two_tunnels_in_a_row_is_a_packet(namespaces) -> None:
    """R88, R90: the inner one, the outer one and its list, the resolver, the uplink's list."""
    places = machine.places(qubes_vpn_model.build(topology.pillar("multihop")))
    found = [
        answer.counterexample
        for answer in prover.prove([faulty(place) for place in places])
        if answer.counterexample
    ]
    assert {one["qube"] for one in found} == {"sys-vpn", "sys-vpn-entry", "sys-dns", "sys-net"}
    told = {(one["qube"], one["stage"]): replay.replay(one) for one in found}
    assert len(told) == len(found) > 14
    assert [place for place, done in told.items() if not done.agrees] == []


#: Clients' packets get out by the uplink, whatever is routed there.
LEAK = """
insert rule inet qubes_vpn forward accept
insert rule inet qubes_vpn postrouting accept
insert rule netdev qubes_vpn egress-2 accept
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_runs_in_two_tunnels_in_a_row_is_proven(
    namespaces, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """R88, R91: by what each qube has loaded; with a leak in one of them, the packet gets out."""
    pillar, proof = tmp_path / "pillar.sls", tmp_path / "proof.json"
    document = topology.pillar("multihop")
    pillar.write_text(yaml.safe_dump({"qubes_vpn": document}))
    words, folder = ["prove", str(pillar), "--json"], tmp_path / "lab"
    folder.mkdir()
    with topology.Topology(document, folder) as built:
        words += ["--address", f"sys-vpn={built.lab.address('sys-vpn')}"]
        for name in ("sys-vpn", "sys-vpn-entry", "sys-dns"):
            rules = tmp_path / f"{name}.json"
            rules.write_text(said(built.lab.qubes[name]))
            words += ["--rules", f"{name}={rules}"]
        assert main(words) == 0
        content = json.loads(capsys.readouterr().out)
        collected = {one["qube"] for one in content["answers"] if "as it runs" in one["stage"]}
        assert collected == {"sys-vpn", "sys-vpn-entry", "sys-dns"}
        for name in ("sys-vpn", "sys-vpn-entry"):
            rules = tmp_path / f"{name}.json"
            good = rules.read_text()
            built.lab.qubes[name].run(["nft", "-f", "-"], input=LEAK)
            rules.write_text(said(built.lab.qubes[name]))
            assert main(words) == 1
            proof.write_text(capsys.readouterr().out)
            found = replay.read(str(proof))
            assert {(one["property"], one["qube"]) for one in found} >= {("P1", name)}
            assert {one["qube"] for one in found} == {name}
            assert all(replay.replay(one).agrees for one in found if one["property"] == "P1")
            rules.write_text(good)


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLSWITCHES)
def test_every_guide_is_refuted_and_the_kernel_agrees(name: str, make_lab: MakeLab) -> None:
    """R91: as a VPN qube has it after its boot; every packet that gets out."""
    lab = make_lab(chains.simple(), KILLSWITCHES[name])
    for member in ("sys-net", "sys-firewall", "sys-vpn", "client-1"):
        lab.boot(member)
    tunnel = lab.tunnels["sys-vpn"]
    service = SimpleNamespace(
        name="sys-vpn",
        role="tunnel",
        interface=tunnel.device,
        endpoints=(endpoint(tunnel.endpoint),),
    )
    document = collect.document(said(lab.qubes["sys-vpn"]))
    answers = list(prover.prove([machine.collected(service, document)]))
    assert [answer.trouble for answer in answers if answer.trouble] == []
    found = [answer.counterexample for answer in answers if answer.counterexample]
    assert {"P1", "P2"} <= {one["property"] for one in found}
    told = {one["told"]: replay.replay(one) for one in found if one["leaves"]}
    assert [text for text, done in told.items() if not done.agrees] == []
