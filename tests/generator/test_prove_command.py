# SPDX-License-Identifier: GPL-2.0-or-later
"""R91: `qubes-vpn prove`, its forms and its exit codes."""

import importlib.util
import json
import shutil
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
    return collect.said([*(part.text for part in place.parts), more], links)


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
        ("sys-firewall=LIST", "which client of sys-firewall is sys-vpn is not said"),
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
        ({"expr": [{"jump": {"target": "forward"}}]}, "a jump behind 16 others is not modelled"),
        ({"expr": [{"\x1b[2J": None}]}, "'?[2J' is not modelled"),
    ],
)
def test_what_a_hostile_qube_sends_is_not_proven(
    pillar: Path, capsys: pytest.CaptureFixture, rule: dict, words: str
) -> None:
    text = loaded("flush chain inet qubes_vpn forward\n")
    content, end = json.JSONDecoder().raw_decode(text)
    place = {"family": "inet", "table": "qubes_vpn", "chain": "forward", "handle": 99}
    content["nftables"].append({"rule": place | rule})
    rules = pillar.with_name("rules.json")
    rules.write_text(f"{json.dumps(content)}{text[end:]}inet qubes_vpn forward 99\n")
    assert main(["prove", str(pillar), "--rules", f"sys-vpn={rules}"]) == 1
    told = capsys.readouterr().out
    assert words in told
    assert "\x1b" not in told


def upstream(more: str = "") -> str:
    """What nft says in the qube upstream, where sys-vpn has 10.137.0.4, and another client."""
    document = {"kind": "wireguard", "profile": "wg.conf", "endpoints": ["192.0.2.1:51820/udp"]}
    model = qubes_vpn_model.build({"topology": "simple", "tunnels": {"sys-vpn": document}})
    place = next(one for one in machine.places(model) if one.properties == ("P8",))
    other = """
add element ip qubes allowed { "vif5.0" . 10.137.0.5 }
add chain ip qubes-firewall other
add rule ip qubes-firewall other accept
add rule ip qubes-firewall forward ip saddr 10.137.0.5 jump other
"""
    return collect.said([*(part.text for part in place.parts), other, more])


_UPSTREAM = ["--address", "sys-vpn=10.137.0.4", "--address", "sys-vpn=fd09:24ef:4179::a89:4"]


def test_the_list_that_a_real_upstream_enforces_is_proven(
    pillar: Path, capsys: pytest.CaptureFixture
) -> None:
    """P8, of that client only: what others may is their own affair."""
    rules = pillar.with_name("rules.json")
    rules.write_text(upstream())
    words = ["prove", str(pillar), "--rules", f"sys-firewall={rules}", "--json"]
    assert main([*words, *_UPSTREAM]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [one["stage"] for one in answers if one["property"] == "P8"] == [
        "the list of sys-vpn, as it runs"
    ]
    assert main([*words, "--address", "sys-vpn=10.137.0.5"]) == 1
    assert main([*words, "--address", "sys-vpn=10.137.0.6"]) == 2
    assert "sys-firewall has no client 10.137.0.6" in capsys.readouterr().err
    assert main([*words, "--address", "sys-vpn=x"]) == 2
    assert "'sys-vpn=x' names no address" in capsys.readouterr().err


def test_a_real_upstream_that_lets_more_through_is_refuted(
    pillar: Path, capsys: pytest.CaptureFixture
) -> None:
    rules = pillar.with_name("rules.json")
    rules.write_text(upstream("insert rule ip qubes-firewall forward udp dport 51821 accept\n"))
    words = ["prove", str(pillar), "--rules", f"sys-firewall={rules}", *_UPSTREAM]
    assert main(words) == 1
    told = capsys.readouterr().out
    assert "REFUTED  P8" in told
    assert ":51821, in by vif4.0" in told


def test_json_alone_is_not_enough(pillar: Path, capsys: pytest.CaptureFixture) -> None:
    """No nft lists an `ether type ip` before `ip saddr`, and what has no such header passes it.

    Nor is it when the qube itself says so in the JSON.
    """
    content, _end = json.JSONDecoder().raw_decode(loaded(""))
    for entry in content["nftables"]:
        entry.get("rule", {})["complete"] = True
    rules = pillar.with_name("rules.json")
    rules.write_text(json.dumps(content))
    assert main(["prove", str(pillar), "--rules", f"sys-vpn={rules}"]) == 1
    told = capsys.readouterr().out
    assert "a rule without what nft --debug=netlink says of it is not modelled" in told


def test_who_names_no_client_is_told_what_is_left_out(
    pillar: Path, capsys: pytest.CaptureFixture
) -> None:
    rules = pillar.with_name("rules.json")
    rules.write_text(loaded("flush set ip qubes allowed; flush set ip6 qubes allowed\n"))
    assert main(["prove", str(pillar), "--rules", f"sys-vpn={rules}"]) == 0
    assert "no client that it names: P6 is not asked" in capsys.readouterr().out


_LIST = "chain ip qubes-firewall qbs-10-137-0-4"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (f"flush {_LIST}; add rule {_LIST[6:]} tcp dport 443 accept; add rule {_LIST[6:]} drop", 0),
        ("flush chain ip qubes-firewall qubes-forward", 1),
    ],
)
def test_a_clients_own_list_refutes_nothing(pillar: Path, more: str, code: int) -> None:
    """P6 is about what it lets through; to be dropped because of no list is another thing."""
    rules = pillar.with_name("rules.json")
    rules.write_text(loaded(f"{more}\n"))
    assert main(["prove", str(pillar), "--rules", f"sys-vpn={rules}"]) == code


def test_a_list_that_was_not_collected_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Of two tunnels the outer one enforces the inner one's, which is found by --address."""
    pillar = tmp_path / "pillar.sls"
    tunnel = "{kind: wireguard, profile: a.conf, endpoints: ['192.0.2.1:51820/udp']"
    pillar.write_text(
        "qubes_vpn:\n  topology: multihop\n  tunnels:\n"
        f"    sys-vpn: {tunnel}}}\n    sys-vpn-entry: {tunnel}, upstream: sys-net}}\n"
    )
    rules = pillar.with_name("rules.json")
    only = "ip daddr 192.0.2.1 udp dport 51820 accept"
    listed = f"flush {_LIST}; add rule {_LIST[6:]} {only}; add rule {_LIST[6:]} drop\n"
    six = "ip6 qubes-firewall qbs-fd09-24ef-4179--a89-4"
    listed += f"flush chain {six}; add rule {six} drop\n"
    rules.write_text(loaded(listed))
    words = ["prove", str(pillar), "--rules", f"sys-vpn-entry={rules}", "--json"]
    assert main(words) == 0
    told = "the list of sys-vpn is the pillar's, not what sys-vpn-entry has loaded."
    assert json.loads(capsys.readouterr().out)["not_claimed"] == [told]
    assert main([*words, "--address", "sys-vpn=10.137.0.4"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["not_claimed"] == []
    assert "the list of sys-vpn, as it runs" in {one["stage"] for one in content["answers"]}


def test_json_without_end_is_one_sentence(pillar: Path, capsys: pytest.CaptureFixture) -> None:
    rules = pillar.with_name("rules.json")
    for deep in (70, 900, 100_000):
        nested = "[" * deep + "]" * deep
        rules.write_text(f'{{"nftables": [{{"metainfo": {nested}}}]}}')
        assert main(["prove", str(pillar), "--rules", f"sys-vpn={rules}"]) == 2
        assert "it is not nft's JSON" in capsys.readouterr().err


def test_what_nft_says_behind_its_json_is_read(pillar: Path) -> None:
    """As nft itself writes both."""
    rules = pillar.with_name("rules.json")
    rules.write_text(loaded(""))
    assert main(["prove", str(pillar), "--rules", f"sys-vpn={rules}"]) == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"chain": {"family": "netdev", "table": "t", "name": f"{n}", "dev": f"d{n}"}}
          for n in range(400)], "more than 300 clients or guarded devices"),
        ([{"set": {"family": "ip", "table": "qubes", "name": "allowed", "elem":
                   [{"concat": [f"vif{n}.0", f"10.0.{n // 200}.{n % 200}"]} for n in range(400)]}}],
         "more than 300 clients or guarded devices"),
    ],
)  # fmt: skip
def test_a_qube_that_says_too_much_is_one_sentence(
    pillar: Path, capsys: pytest.CaptureFixture, entries: list, words: str
) -> None:
    rules = pillar.with_name("rules.json")
    rules.write_text(json.dumps({"nftables": entries}))
    assert main(["prove", str(pillar), "--rules", f"sys-vpn={rules}"]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "words"),
    [("unshare", "unshare cannot be found. Install util-linux"), ("nft", "nft: not found")],
)
def test_a_program_that_is_missing_is_one_sentence(
    pillar: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    words: str,
) -> None:
    programs = pillar.with_name("programs")
    programs.mkdir()
    for name in {"sh", "unshare", "ip", "nft"} - {missing}:
        (programs / name).symlink_to(shutil.which(name))
    monkeypatch.setitem(collect._ENVIRONMENT, "PATH", str(programs))
    assert main(["prove", str(pillar)]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "Traceback" not in told


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
