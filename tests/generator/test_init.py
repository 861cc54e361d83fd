# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes-vpn init`: a profile in, a clean and commented pillar out (R33, R35)."""

import io
import json
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from generator.cases import PROFILES, secrets_of
from ruamel.yaml import YAML

from qubes_vpn_formula import pillarfile
from qubes_vpn_formula.cli import main
from qubes_vpn_schema import TOPOLOGIES

PINS = {
    "ivpn-sweden.conf": ["--address", "se1.wg.ivpn.net=198.51.100.20"],
    "ivpn-names.ovpn": [
        "--address", "se.gw.ivpn.net=198.51.100.21", "--address", "no.gw.ivpn.net=198.51.100.22",
    ],
    "ipv6.ovpn": [
        "--address", "dual.example.net=198.51.100.23", "--address", "six.example.net=2001:db8::2",
    ],
}  # fmt: skip
MULLVAD = str(PROFILES / "mullvad-se-mma-wg-001.conf")


def init(name, *words):
    return main(["init", "--from", str(PROFILES / name), *PINS.get(name, []), *words])


@pytest.mark.parametrize("topology", ["dns", "simple"])
@pytest.mark.parametrize("path", sorted(PROFILES.iterdir()), ids=lambda path: path.name)
def test_makes_a_clean_pillar_without_secrets(path, topology, tmp_path, capsys):
    """R33: the checker has nothing to say about the pillar, and no secret is shown anywhere."""
    output = tmp_path / "pillar.sls"
    words = ["--route", "work", "--vault", "vault", "--topology", topology]
    assert init(path.name, *words, "--output", str(output)) == 0
    assert pillarfile.read(str(output)).problems() == []
    shown = capsys.readouterr()
    assert shown.out == ""
    everything = shown.err + output.read_text()
    assert not [secret for secret in secrets_of(path) if secret in everything]
    assert "sys-vpn:/rw/config/vpn/credentials/" in output.read_text()
    assert "/rw/config/vpn/credentials" in shown.err
    assert f"qvm-copy {path.name}" in shown.err


@pytest.mark.parametrize("topology", sorted({*TOPOLOGIES} - {"custom", "multihop"}))
def test_each_topology_of_one_tunnel(topology, tmp_path, capsys):
    """R88. Clients go to its head; what Tor does not carry is refused, by the option's name."""
    output = tmp_path / "pillar.sls"
    words = ["--topology", topology, "--route", "work", "--output", str(output)]
    code = init(Path(MULLVAD).name, *words)
    if topology == "vpn-over-tor":
        assert (code, output.exists()) == (2, False)
        assert capsys.readouterr().err.startswith(
            "--topology: qubes_vpn.tunnels.sys-vpn.kind: Tor "
        )
        return
    assert code == 0
    model = pillarfile.read(str(output)).model
    assert (model.topology, model.routes["work"]) == (topology, model.chain[0])
    upstream = model.services["sys-vpn"].upstream
    assert f"# upstream: {upstream}\n" in output.read_text(encoding="utf-8")


def test_pillar_text(capsys):
    """The whole text once, so that every change of it is seen."""
    assert main(["init", "--from", MULLVAD, "--route", "work", "--vault", "vault"]) == 0
    expected = Path(__file__).with_name("mullvad.pillar.expected").read_text(encoding="utf-8")
    assert capsys.readouterr().out == expected


def test_comments_survive_ruamel(capsys):
    """A user's own round trip with ruamel.yaml keeps every comment of the pillar."""
    assert main(["init", "--from", MULLVAD]) == 0
    text = capsys.readouterr().out
    round_trip = YAML()
    round_trip.indent(mapping=2, sequence=4, offset=2)
    data = round_trip.load(text)
    data["qubes_vpn"]["tunnels"]["sys-vpn"]["memory"] = 500
    stream = io.StringIO()
    round_trip.dump(data, stream)
    for line in text.splitlines():
        assert line in stream.getvalue().splitlines()


def test_choices(capsys):
    """Names of the user's own: tunnel, template, routes."""
    words = ["--tunnel", "vpn-se", "--template", "my-vpn", "--topology", "simple"]
    assert init("split.conf", *words, "--route", "work", "--route", "mail=sys-firewall",
                "--vault", "v1", "--vault", "v2") == 2  # fmt: skip
    assert "mail -> sys-firewall -> sys-net passes no tunnel" in capsys.readouterr().err
    assert init("split.conf", *words, "--route", "work", "--vault", "v1", "--vault", "v2") == 0
    found = yaml.safe_load(capsys.readouterr().out)["qubes_vpn"]
    assert list(found["tunnels"]) == ["vpn-se"]
    assert found["tunnels"]["vpn-se"]["template"] == "my-vpn"
    assert found["routes"]["qubes"] == {"work": "vpn-se"}
    assert found["vaults"] == ["v1", "v2"]


@pytest.mark.parametrize(
    ("words", "layout"),
    [
        (["--layout"], "canonical"),
        (["--layout", "banking", "vault"], {"banking": {}, "vault": {}}),
        (["--vault", "vault", "--route", "work", "--layout"], "canonical"),
    ],
)
def test_a_layout(words, layout, tmp_path, capsys):
    """R10."""
    assert init("split.conf", *words) == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["qubes_vpn"]["layout"] == layout
    path = tmp_path / "pillar.sls"
    path.write_text(text)
    assert main(["check", str(path)]) == 0
    said = "layout.banking: nothing says what it may reach, so it is offline. Write its allowlist"
    assert said in capsys.readouterr().out
    assert init("split.conf", *words, "--output", str(tmp_path / "other.sls")) == 0
    assert "qubesctl state.sls qubes.layout\n" in capsys.readouterr().err
    assert init("split.conf", "--layout", "mail") == 2
    assert "invalid choice: 'mail'" in capsys.readouterr().err


def test_a_pillar_with_problems_is_not_written(tmp_path, capsys):
    output = tmp_path / "pillar.sls"
    assert init("split.conf", "--tunnel", "x" * 32, "--output", str(output)) == 2
    assert "has 32 characters" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--route", "my qube"], ["--route: qubes_vpn.routes.qubes.'my qube': "]),
        (["--vault", "v 1"], ["--vault: qubes_vpn.vaults[0]: "]),
        (["--template", "t 1"], ["--template: qubes_vpn.tunnels.sys-vpn.template: "]),
        (["--tunnel", "v.p.n"], ["--tunnel: qubes_vpn.tunnels.'v.p.n': "]),
        (["--tunnel", "sys-net"], ["--tunnel: qubes_vpn."]),
        (["--tunnel", "sys-dns"], ["--tunnel: qubes_vpn."]),
        (
            ["--route", "a=b", "--vault", "7"],
            ["--route: qubes_vpn.routes.qubes.a: ", "--vault: qubes_vpn.vaults[0]: "],
        ),
    ],
    ids=" ".join,
)
def test_a_problem_names_the_option_that_brings_it(words, said, capsys):
    """Not a line of a pillar that nobody has seen."""
    assert init("split.conf", *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(said)
    for line, start in zip(lines, said, strict=True):
        assert line.startswith(start)


def test_a_problem_names_the_profile_that_brings_it(tmp_path, capsys):
    profile = tmp_path / "here.conf"
    profile.write_text((PROFILES / "ivpn-sweden.conf").read_text())
    words = ["--from", str(profile), "--address", "se1.wg.ivpn.net=" + ",".join(
        f"2001:db8::{number:x}" for number in range(1, 1500)
    )]  # fmt: skip
    assert main(["init", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{profile}: qubes_vpn.tunnels.sys-vpn.endpoints: 1,500 firewall rules")


def test_profile_name_must_fit_the_qube(tmp_path, capsys):
    """The file's name becomes a pillar value, so it has to be one."""
    odd = tmp_path / "my{{profile.conf"
    odd.write_bytes((PROFILES / "split.conf").read_bytes())
    assert main(["init", "--from", str(odd)]) == 2
    assert "Rename" in capsys.readouterr().err


class TestNames:
    """R35: a name is resolved once, at generation, in the open; never by itself."""

    def test_refused_without_a_choice(self, capsys, monkeypatch):
        def never(*_args, **_kwargs):
            raise AssertionError("a resolver was asked")

        monkeypatch.setattr("socket.getaddrinfo", never)
        path = str(PROFILES / "ivpn-sweden.conf")
        assert main(["init", "--from", path]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert f"{path}:10: the server is given by name: se1.wg.ivpn.net" in shown.err
        assert "--resolve" in shown.err
        assert "--address se1.wg.ivpn.net=ADDRESS" in shown.err

    def test_resolve_says_what_it_asks_and_pins_the_answers(self, capsys, monkeypatch):
        asked = []

        def resolver(name, *_args, **_kwargs):
            asked.append(name)
            return [
                (2, 2, 17, "", ("198.51.100.20", 0)),
                (10, 2, 17, "", ("2001:db8::20", 0, 0, 0)),
                (2, 2, 17, "", ("198.51.100.20", 0)),
            ]

        monkeypatch.setattr("socket.getaddrinfo", resolver)
        assert main(["init", "--from", str(PROFILES / "ivpn-sweden.conf"), "--resolve"]) == 0
        shown = capsys.readouterr()
        assert asked == ["se1.wg.ivpn.net"]
        assert "in clear: se1.wg.ivpn.net" in shown.err
        assert "pinned: se1.wg.ivpn.net = 198.51.100.20, 2001:db8::20" in shown.err
        found = yaml.safe_load(shown.out)["qubes_vpn"]["tunnels"]["sys-vpn"]["endpoints"]
        assert found == ["198.51.100.20:2049/udp", "[2001:db8::20]:2049/udp"]

    def test_resolve_asks_the_real_resolver(self, tmp_path, capsys):
        """No stand-in: the machine's own name for itself, which cannot be a VPN server."""
        profile = tmp_path / "here.conf"
        text = (PROFILES / "ivpn-sweden.conf").read_text()
        profile.write_text(text.replace("se1.wg.ivpn.net", "localhost"))
        assert main(["init", "--from", str(profile), "--resolve"]) == 2
        assert "cannot be a VPN server" in capsys.readouterr().err

    def test_an_answer_for_every_name(self, capsys):
        path = str(PROFILES / "ivpn-names.ovpn")
        assert main(["init", "--from", path, "--address", "se.gw.ivpn.net=192.0.2.1"]) == 2
        assert "no address for no.gw.ivpn.net" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("address", "message"),
        [
            ("se1.wg.ivpn.net", "is not NAME=ADDRESS"),
            ("se1.wg.ivpn.net=nowhere", "is not NAME=ADDRESS"),
            ("other.example=192.0.2.1", "has no server named other.example"),
        ],
    )
    def test_bad_addresses(self, address, message, capsys):
        path = str(PROFILES / "ivpn-sweden.conf")
        assert main(["init", "--from", path, "--address", address]) == 2
        assert message in capsys.readouterr().err


class TestOutput:
    def test_new_file_is_the_owners_only(self, tmp_path):
        output = tmp_path / "pillar.sls"
        assert init("split.conf", "--output", str(output)) == 0
        assert output.stat().st_mode & 0o777 == 0o600
        assert list(tmp_path.iterdir()) == [output]

    def test_does_not_overwrite(self, tmp_path, capsys):
        output = tmp_path / "pillar.sls"
        output.write_text("mine\n")
        assert init("split.conf", "--output", str(output)) == 2
        assert "exists already" in capsys.readouterr().err
        assert output.read_text() == "mine\n"
        assert init("split.conf", "--output", str(output), "--force") == 0
        assert "qubes_vpn:" in output.read_text()

    def test_folder_that_is_not_there(self, tmp_path, capsys):
        assert init("split.conf", "--output", str(tmp_path / "no" / "pillar.sls")) == 2
        assert "cannot be written" in capsys.readouterr().err

    def test_json(self, capsys):
        assert init("home.conf", "--json") == 0
        shown = capsys.readouterr()
        assert shown.err == ""
        found = json.loads(shown.out)
        assert list(found["pillar"]["qubes_vpn"]["tunnels"]) == ["sys-vpn"]
        assert {"what": "PrivateKey", "line": 3} in found["secrets"]
        assert [one["key"] for one in found["findings"] if one["danger"]] == [
            "Table", "PreUp", "PostUp",
        ]  # fmt: skip
        assert not [secret for secret in secrets_of(PROFILES / "home.conf") if secret in shown.out]

    def test_next_steps_are_shell(self, capsys):
        """Every line to type is one that a shell can parse; a file name with blanks stays one."""
        assert init("separate-files.ovpn", "--json") == 0
        steps = json.loads(capsys.readouterr().out)["next"]
        for line in (line for step in steps for line in step["type"]):
            assert subprocess.run(["bash", "-n", "-c", line], check=False).returncode == 0
        copied = shlex.split(steps[2]["type"][0])
        assert copied[:2] == ["qvm-copy", "separate-files.ovpn"]
        assert "ca of the provider.crt" in copied
        taken = steps[3]["type"][1]
        assert "/client.key" in taken
        assert "*/'ca of the provider.crt'" in taken
        assert steps[-2]["type"] == [steps[1]["type"][-1]]  # and applied again
        assert steps[-1]["type"] == [  # R51: a resolver answers once the tunnel is up
            "sudo qubesctl --skip-dom0 --targets=t-dns,sys-dns state.sls qubes.network.sys-vpn"
        ]

    def test_a_login_that_is_asked_for_gets_its_file(self, capsys):
        """R32: two lines beside the profile, as the VPN qube reads them."""
        assert init("ivpn-names.ovpn", *PINS["ivpn-names.ovpn"], "--json") == 0
        steps = json.loads(capsys.readouterr().out)["next"]
        assert steps[-3]["type"][-1] == (
            "sudo tee /rw/config/vpn/credentials/ivpn-names.auth >/dev/null"
        )
        assert init("separate-files.ovpn", "--json") == 0
        assert ".auth" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--from", MULLVAD, "--provider", "mullvad"],
        ["--from", MULLVAD, "--country", "se"],
        ["--provider", "mullvad"],
        ["--provider", "mullvad", "--relays", "r.json", "--resolve"],
        ["--from", "no-such-file.conf"],
        ["--from", str(PROFILES)],
    ],
)
def test_bad_words(words, capsys):
    """Exit code 2 and something to read, never a traceback."""
    assert main(["init", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err
