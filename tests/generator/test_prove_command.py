# SPDX-License-Identifier: GPL-2.0-or-later
"""R91: `qubes-vpn prove`, its forms and its exit codes."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

import qubes_vpn_model
from qubes_vpn_formula.cli import main
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.prove import collect, machine, prover
from qubes_vpn_formula.prove.sources import Part

PILLAR = """\
qubes_vpn:
  topology: simple
  tunnels:
    sys-vpn: {kind: wireguard, profile: wg.conf, endpoints: ["192.0.2.1:51820/udp"]}
"""


@pytest.fixture
def pillar(tmp_path: Path) -> Path:
    file = tmp_path / "pillar.sls"
    file.write_text(PILLAR)
    return file


def loaded(more: str) -> str:
    """What nft says in a VPN qube of this pillar."""
    document = {"kind": "wireguard", "profile": "wg.conf", "endpoints": ["192.0.2.1:51820/udp"]}
    model = qubes_vpn_model.build({"topology": "simple", "tunnels": {"sys-vpn": document}})
    place = next(machine.places(model))
    links = [collect.Link(name, 1) for name in place.devices]
    return json.dumps(collect.listing([*(part.text for part in place.parts), more], links))


def test_a_good_pillar_is_proven(pillar: Path, capsys: pytest.CaptureFixture) -> None:
    page = pillar.with_name("proof.html")
    assert main(["prove", str(pillar), "--page", str(page)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:7] == ["proven", "P1", "P2", "P3", "P4", "P5", "P6"]
    assert "all proven" in lines[-1]
    text = page.read_text()
    assert "Can these rules leak?" in text
    assert "REFUTED" not in text


def test_what_a_qube_has_loaded_is_refuted_with_a_packet(
    pillar: Path, capsys: pytest.CaptureFixture
) -> None:
    """As JSON, which the lab replays, and as a page with the path."""
    rules = pillar.with_name("rules.json")
    rules.write_text(loaded("insert rule inet qubes_vpn client_asks accept\n"))
    page = pillar.with_name("proof.html")
    words = ["prove", str(pillar), "--rules", f"sys-vpn={rules}", "--page", str(page)]
    assert main([*words, "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert not content["proven"]
    refuted = [one for one in content["answers"] if one["holds"] is False]
    assert {one["property"] for one in refuted} == {"P3", "P5"}
    assert {one["stage"] for one in refuted} == {"as it runs"}
    assert refuted[0]["counterexample"]["rules"]["nftables"]
    assert "REFUTED" in page.read_text()
    assert main(words) == 1
    told = capsys.readouterr().out
    assert "REFUTED  P3" in told
    assert "it gets out" in told


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("sys-net=x", "names no VPN or resolver qube"),
        ("sys-vpn", "names no VPN or resolver qube"),
        ("sys-vpn=PILLAR", "it is not nft's JSON"),
        ("sys-vpn=LIST", "it is not nft's JSON"),
    ],
)
def test_rules_that_cannot_be_used(
    pillar: Path, capsys: pytest.CaptureFixture, value: str, words: str
) -> None:
    listed = pillar.with_name("list.json")
    listed.write_text('{"nftables": ["x"]}')
    value = value.replace("PILLAR", str(pillar)).replace("LIST", str(listed))
    assert main(["prove", str(pillar), "--rules", value]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"expr": [{"match": {}}]}, "it is not what nft -j list ruleset says"),
        ({"expr": [{"jump": {"target": "forward"}}]}, "it is not what nft -j list ruleset says"),
        ({"expr": [{"\x1b[2J": None}]}, "'?[2J' is not modelled"),
    ],
)
def test_what_a_hostile_qube_sends_is_not_proven(
    pillar: Path, capsys: pytest.CaptureFixture, rule: dict, words: str
) -> None:
    content = json.loads(loaded("flush chain inet qubes_vpn forward\n"))
    place = {"family": "inet", "table": "qubes_vpn", "chain": "forward", "handle": 99}
    content["nftables"].append({"rule": place | rule})
    rules = pillar.with_name("rules.json")
    rules.write_text(json.dumps(content))
    assert main(["prove", str(pillar), "--rules", f"sys-vpn={rules}"]) == 1
    told = capsys.readouterr().out
    assert words in told
    assert "\x1b" not in told


def test_rules_that_cannot_be_loaded_are_one_sentence() -> None:
    """Also where several rule sets are looked at side by side."""
    document = {"kind": "wireguard", "profile": "wg.conf", "endpoints": ["192.0.2.1:51820/udp"]}
    model = qubes_vpn_model.build({"topology": "simple", "tunnels": {"sys-vpn": document}})
    wrong = [
        replace(place, parts=(Part("wrong", "bogus\n"),))
        for place, _ in zip(machine.places(model), range(2), strict=False)
    ]
    with pytest.raises(UserError, match="the rules cannot be loaded") as told:
        list(prover.prove(wrong))
    assert told.value.fix.startswith("Install nftables")


def test_without_the_solver_it_says_how_to_get_it(
    pillar: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["prove", str(pillar)]) == 2
    assert "pip install 'qubes-vpn-formula[prove]'" in capsys.readouterr().err


def test_a_bad_pillar_is_told_first(pillar: Path, capsys: pytest.CaptureFixture) -> None:
    pillar.write_text(PILLAR.replace("192.0.2.1", "se.vpn.example"))
    assert main(["prove", str(pillar)]) == 2
    assert "host name" in capsys.readouterr().out
