# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes-vpn audit`: forms, exit codes, and input that is none (R93)."""

import json

import pytest

import qubes_vpn_inventory
from qubes_vpn_formula.cli import main
from qubes_vpn_formula.embedded import dom0

PILLAR = """\
qubes_vpn:
  tunnels:
    sys-vpn: {kind: wireguard, profile: wg.conf, endpoints: [192.0.2.1:51820/udp]}
  audit:
    exceptions:
      - {rule: A305, qube: sys-net, reason: the clock is set before the tunnel}
"""


@pytest.fixture
def inventory(embedded, tmp_path):
    path = tmp_path / "inventory.json"
    taken = qubes_vpn_inventory.take(dom0.machine(embedded.path, dry=True), {})
    path.write_text(json.dumps(taken))
    return path


@pytest.fixture
def pillar(tmp_path):
    path = tmp_path / "pillar.sls"
    path.write_text(PILLAR)
    return str(path)


@pytest.mark.parametrize("release", ["4.2", "4.3"])
def test_a_fresh_machine_is_in_clear_and_says_so(inventory, embedded, capsys):
    assert main(["audit", "--inventory", str(inventory)]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("CRITICAL  A101  Packets of it can leave in clear\n")
    assert "          work: packets and DNS by sys-firewall, sys-net\n" in shown
    assert "Found: 4 critical, " in shown
    assert main(["audit", "--embedded", str(embedded.path)]) == 1
    assert capsys.readouterr().out == shown


def test_exceptions_of_the_pillar_are_applied(inventory, pillar, capsys):
    assert main(["audit", pillar, "--inventory", str(inventory), "--format", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [(each["rule"], each["exception"]) for each in told["excepted"]] == [
        ("A305", "the clock is set before the tunnel")
    ]
    assert "A305" not in [each["rule"] for each in told["findings"]]


def test_fail_on_decides_the_exit_code(inventory, capsys):
    taken = json.loads(inventory.read_text())
    for qube in taken["qubes"].values():
        for key in ("netvm", "default_dispvm"):
            if key in qube["properties"]:
                qube["properties"][key] = {"value": None, "inherited": False}
    taken["globals"].update(default_netvm=None, updatevm=None, clockvm=None)
    taken["policy"] = {}
    inventory.write_text(json.dumps(taken))
    code = {
        least: main(["audit", "--inventory", str(inventory), "--fail-on", least])
        for least in ("critical", "high", "medium", "low")
    }
    assert code == {"critical": 0, "high": 0, "medium": 1, "low": 1}, capsys.readouterr().out


def test_sarif_is_json_with_the_version(inventory, capsys):
    assert main(["audit", "--inventory", str(inventory), "--format", "sarif"]) == 1
    assert json.loads(capsys.readouterr().out)["version"] == "2.1.0"


def test_an_older_inventory_is_read_and_what_it_lacks_is_said(inventory, capsys):
    taken = json.loads(inventory.read_text())
    del taken["more"]
    for qube in taken["qubes"].values():
        qube["properties"].pop("ip", None)
    inventory.write_text(json.dumps(taken))
    assert main(["audit", "--inventory", str(inventory)]) == 1
    assert "NOT KNOWN A212  " in capsys.readouterr().out


@pytest.mark.parametrize("command", ["audit", "graph", "table"])
@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("sys-net", "netvm", "sys-firewall"), ("default-dvm", "template", "default-dvm")],
)
def test_a_loop_is_no_machine(inventory, command, name, key, value, capsys):
    taken = json.loads(inventory.read_text())
    taken["qubes"][name]["properties"][key]["value"] = value
    inventory.write_text(json.dumps(taken))
    assert main([command, "--inventory", str(inventory)]) == 2
    assert f"properties.{key}: it goes round in a loop" in capsys.readouterr().err


def test_no_text_of_an_inventory_is_for_a_terminal(inventory, capsys):
    taken = json.loads(inventory.read_text())
    taken["qubes"]["work"]["properties"]["ip"]["value"] = "\x1b[2J"
    inventory.write_text(json.dumps(taken))
    assert main(["table", "--inventory", str(inventory)]) == 2
    assert "properties.ip.value: it is no text" in capsys.readouterr().err


def test_a_number_that_python_does_not_read(inventory, capsys):
    inventory.write_text('{"format": ' + "9" * 5000 + "}")
    assert main(["audit", "--inventory", str(inventory)]) == 2
    assert "a number that is too long" in capsys.readouterr().err


def test_bad_input_is_two(inventory, pillar, tmp_path, capsys):
    taken = json.loads(inventory.read_text())
    inventory.write_text(json.dumps({**taken, "more": ["everything"]}))
    assert main(["audit", "--inventory", str(inventory)]) == 2
    assert "more[0]: this is no fact of it" in capsys.readouterr().err
    (tmp_path / "bad.sls").write_text("qubes_vpn: {audit: {exceptions: [{rule: nothing}]}}\n")
    assert main(["audit", str(tmp_path / "bad.sls"), "--embedded", "fresh"]) == 2
    assert "'nothing' is no rule of the audit" in capsys.readouterr().out
    assert main(["audit"]) == 2
