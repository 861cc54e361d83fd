# SPDX-License-Identifier: GPL-2.0-or-later
"""The real qvm-* tools work on the server as in dom0. Needs QUBES_SRC."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import qubes_vpn_qvm_template
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.embedded.server import serving

HERE = Path(__file__).parent


class Tools:
    """Runs tools; each answers its lines, their words joined by single spaces."""

    def __init__(self, socket, path):
        self.socket = socket
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(self, tool, *arguments):
        return subprocess.run(
            [sys.executable, HERE / "run_tool.py", self.socket, tool, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def __call__(self, line):
        done = self.run(*line.split())
        assert done.returncode == 0, done.stderr
        return [" ".join(line.split()) for line in done.stdout.splitlines()]

    def refused(self, line):
        done = self.run(*line.split())
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        return done.stderr


@pytest.fixture
def tools(real_client, real_release, tmp_path):
    # The tools ask for the metadata of an installed package.
    metadata = tmp_path / "qubesadmin-0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    fields = ("Name: qubesadmin", "Version: 0", "Summary: -", "Author: -", "License: -")
    metadata.write_text("\n".join(fields) + "\n")
    machine = EmbeddedQubes(tmp_path / "qubes.json", real_release)
    with serving(tmp_path / "qubesd.sock", machine):
        yield Tools(tmp_path / "qubesd.sock", [real_client, tmp_path])


def test_a_qube_is_made_and_set_up(tools):
    tools("qvm-create --class AppVM --template debian-13-minimal --label orange sys-vpn")
    tools("qvm-prefs sys-vpn provides_network True")
    tools("qvm-prefs sys-vpn netvm sys-net")
    assert tools("qvm-prefs sys-vpn netvm") == ["sys-net"]
    assert {"label - orange", "memory D 400", "netvm - sys-net"} <= set(tools("qvm-prefs sys-vpn"))
    tools("qvm-prefs work netvm sys-vpn")
    assert "vault" in tools.refused("qvm-prefs work netvm vault")
    tools("qvm-prefs --default work netvm")
    assert tools("qvm-prefs work netvm") == ["sys-firewall"]
    assert "default_netvm - sys-firewall" in tools("qubes-prefs")
    tools("qubes-prefs default_netvm sys-vpn")
    assert tools("qvm-prefs work netvm") == ["sys-vpn"]
    assert tools("qvm-ls --raw-data --fields NAME,NETVM sys-vpn") == ["sys-vpn|sys-net"]


def test_features_services_tags(tools):
    tools("qvm-features work x-vpn wireguard")
    tools("qvm-service work qubes-vpn on")
    assert tools("qvm-features work") == ["x-vpn wireguard", "service.qubes-vpn 1"]
    assert tools("qvm-service work") == ["qubes-vpn on"]
    tools("qvm-features --unset work x-vpn")
    assert tools("qvm-features work") == ["service.qubes-vpn 1"]
    tools("qvm-tags work add vpn")
    assert "vpn" in tools("qvm-tags work")


def test_firewall(tools):
    tools("qvm-firewall work add accept dsthost=185.65.135.68 proto=udp dstports=51820")
    tools("qvm-firewall work add --before 0 action=accept specialtarget=dns")
    tools("qvm-firewall work del --rule-no 1")
    assert tools("qvm-firewall work list")[1:] == [
        "0 accept - - - dns - - -",
        "1 accept 185.65.135.68/32 udp 51820 - - - -",
    ]
    tools("qvm-firewall work reset")
    assert tools("qvm-firewall work --raw") == ["action=accept"]


def test_power(tools):
    tools("qvm-start work")
    states = tools("qvm-ls --raw-data --fields NAME,STATE work sys-firewall sys-net")
    assert states == ["sys-firewall|Running", "sys-net|Running", "work|Running"]
    tools("qvm-pause work")
    assert tools("qvm-ls --raw-data --fields STATE work") == ["Paused"]
    tools("qvm-unpause work")
    # Whether the tool's own answer is 0 then differs between its versions.
    assert "work" in tools.run("qvm-shutdown", "sys-firewall").stderr
    tools("qvm-check --running sys-firewall")
    tools("qvm-shutdown --wait work")
    tools.refused("qvm-check --running work")
    tools("qvm-shutdown --wait --force sys-firewall")
    tools("qvm-start work")
    tools("qvm-kill work")
    tools("qvm-shutdown --wait --all")
    assert set(tools("qvm-ls --raw-data --fields NAME,STATE --all")) >= {"work|Halted"}


def test_qvm_template_takes_our_command_line(tools, real_client):
    """R20. Signatures are checked, its own repositories and updatevm are used. Nothing is run."""
    script = """
import sys
from unittest.mock import MagicMock
not_needed = ("rpm", "tqdm", "xdg", "xdg.BaseDirectory")
sys.modules |= {name: MagicMock() for name in not_needed}
from qubesadmin.tools import qvm_template as tool
parsed, rest = tool.parser.parse_known_args(sys.argv[1:])
parsed = tool.parser.parse_args(rest, parsed)
assert (parsed.command, parsed.templates) == ("install", ["debian-13-minimal"])
assert not parsed.nogpgcheck and not parsed.allow_pv and not parsed.repos
assert parsed.updatevm is tool.UPDATEVM
"""
    arguments = qubes_vpn_qvm_template.arguments("debian-13-minimal")
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=tools.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    source = (real_client / "qubesadmin/tools/qvm_template.py").read_text()
    assert f"tpl.features['{qubes_vpn_qvm_template.LAST_FEATURE}']" in source
    assert f"'/{qubes_vpn_qvm_template.LOCK}'" in source


def test_clone_and_remove(tools):
    tools("qvm-prefs work memory 700")
    tools("qvm-clone work copy")
    assert tools("qvm-prefs copy memory") == ["700"]
    assert "copy" in tools("qvm-ls --raw-list")
    tools("qvm-remove -f copy")
    assert "copy" not in tools("qvm-ls --raw-list")
    assert "sys-net" in tools.refused("qvm-remove -f sys-net")
