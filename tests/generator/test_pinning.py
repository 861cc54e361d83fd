# SPDX-License-Identifier: GPL-2.0-or-later
"""What the VPN qube would refuse is known where the pillar is made; an address that moved is named.

R35: a changed address is a finding, never a silent retry.
"""

import json

import pytest
from generator.cases import PROFILES

from qubes_vpn_formula import resolve
from qubes_vpn_formula.cli import main

SWEDEN = PROFILES / "ivpn-sweden.conf"
NAME = "se1.wg.ivpn.net"


@pytest.fixture
def pillar(tmp_path, capsys):
    """The pillar of a profile whose server is given by name."""
    path = tmp_path / "pillar.sls"
    words = ["--from", str(SWEDEN), "--address", f"{NAME}=198.51.100.20", "--output", str(path)]
    assert main(["init", *words]) == 0
    capsys.readouterr()
    return path


@pytest.fixture
def answers(monkeypatch):
    """What the resolver says, by name; asking for any other name is a failure."""
    known = {NAME: ["198.51.100.20"]}
    monkeypatch.setattr(resolve, "ask", known.__getitem__)
    return known


def check(pillar, profile, *words):
    return main(["check", str(pillar), "--profile", str(profile), *words])


@pytest.fixture
def weak(tmp_path):
    """A profile that the qube takes, and whose encryption can be read in part."""
    path = tmp_path / "weak.ovpn"
    good = (PROFILES / "separate-files.ovpn").read_text()
    path.write_text(f"{good}data-ciphers AES-256-GCM:BF-CBC\ntls-version-min 1.0\n")
    return path


class TestWeakened:
    """R32: a profile with less encryption than OpenVPN has by itself is not taken in silence."""

    def test_init(self, weak, capsys):
        assert main(["init", "--from", str(weak)]) == 0
        said = capsys.readouterr().err.replace("\n", " ")
        assert "data-ciphers: a cipher of 64-bit blocks, which can be read in part" in said
        assert "tls-version-min: allows TLS 1.0, which is broken" in said

    def test_check(self, weak, tmp_path, capsys):
        pillar = tmp_path / "p.sls"
        assert main(["init", "--from", str(weak), "--output", str(pillar)]) == 0
        capsys.readouterr()
        assert check(pillar, weak) == 0
        said = capsys.readouterr().out.replace("\n", " ")
        assert "data-ciphers: a cipher of 64-bit blocks" in said
        assert "tls-version-min: allows TLS 1.0" in said


class TestInit:
    def test_says_what_the_qube_will_refuse(self, capsys):
        assert main(["init", "--from", str(PROFILES / "home.conf")]) == 0
        shown = capsys.readouterr().err.replace("\n", " ")
        assert "The VPN qube will refuse this profile until this is changed in it:" in shown
        assert "home.conf:12: PostUp: a program that would run as root" in shown

    def test_says_nothing_of_a_good_one(self, capsys):
        assert main(["init", "--from", str(PROFILES / "proton-se-12.conf")]) == 0
        assert "refuse" not in capsys.readouterr().err

    def test_values_too(self, tmp_path, capsys):
        """Not only the options: what the qube cannot make a connection of."""
        profile = tmp_path / "x.ovpn"
        good = (PROFILES / "separate-files.ovpn").read_text()
        profile.write_text(f"{good}keepalive 10\nca ../ca.crt\nup owned\n")
        assert main(["init", "--from", str(profile), "--json"]) == 0
        refused = json.loads(capsys.readouterr().out)["refused"]
        assert sorted(one["key"] for one in refused) == ["ca", "keepalive", "up"]

    def test_a_peer_with_a_choice_of_servers(self, capsys):
        words = ["--from", str(SWEDEN), "--address", f"{NAME}=198.51.100.20,198.51.100.21"]
        assert main(["init", *words, "--json"]) == 0
        refused = json.loads(capsys.readouterr().out)["refused"]
        assert "may be any of 198.51.100.20, 198.51.100.21" in refused[0]["text"]


class TestCheck:
    def test_fits(self, pillar, capsys):
        assert check(pillar, SWEDEN) == 0
        assert capsys.readouterr().out == f"{pillar}: no problem\n{SWEDEN}: no problem\n"

    def test_asks_only_when_told_to(self, pillar, answers):
        answers.clear()
        assert check(pillar, SWEDEN) == 0
        with pytest.raises(KeyError, match=NAME):
            check(pillar, SWEDEN, "--resolve")

    def test_a_moved_address_is_a_finding(self, pillar, answers, capsys):
        assert check(pillar, SWEDEN, "--resolve") == 0
        answers[NAME] = ["198.51.100.20", "198.51.100.99"]
        assert check(pillar, SWEDEN, "--resolve", "--json") == 1
        shown = capsys.readouterr().out
        (found,) = json.loads(shown[shown.index("[") :])
        assert (found["line"], found["key"]) == (10, NAME)
        assert "198.51.100.99:2049/udp is not among the endpoints" in found["what"]

    def test_a_new_profile_with_another_server_is_a_finding(self, pillar, tmp_path, capsys):
        changed = tmp_path / SWEDEN.name
        changed.write_text(SWEDEN.read_text().replace(NAME, "198.51.100.21"))
        assert check(pillar, changed) == 1
        assert f"{changed}:10: Endpoint: 198.51.100.21:2049/udp is not among" in (
            capsys.readouterr().out.replace("\n", " ")
        )

    def test_what_the_qube_refuses_is_a_finding(self, pillar, tmp_path, capsys):
        changed = tmp_path / SWEDEN.name
        changed.write_text(SWEDEN.read_text().replace("DNS =", "PostUp = owned\nDNS ="))
        assert check(pillar, changed) == 1
        assert "PostUp: a program that would run as root" in capsys.readouterr().out

    def test_no_tunnel_has_it(self, pillar, capsys):
        assert check(pillar, PROFILES / "split.conf") == 2
        assert "no tunnel has the profile split.conf" in capsys.readouterr().err

    def test_problems_of_the_pillar_come_first(self, pillar, capsys):
        pillar.write_text(pillar.read_text().replace("198.51.100.20", "127.0.0.1"))
        assert check(pillar, SWEDEN) == 2
        assert str(SWEDEN) not in capsys.readouterr().out

    def test_resolve_alone(self, pillar, capsys):
        assert main(["check", str(pillar), "--resolve"]) == 2
        assert "--resolve: it means nothing alone" in capsys.readouterr().err
