# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes-vpn plan` for a machine: what each step changes, exit codes, inventories that are none."""

import contextlib
import json
from pathlib import Path

import pytest

from qubes_vpn_formula import inventory as inventory_file
from qubes_vpn_formula.cli import main
from qubes_vpn_formula.embedded import dom0
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.errors import UserError

PILLAR = """\
qubes_vpn:
  tunnels:
    sys-vpn: {kind: wireguard, profile: wg.conf, endpoints: [192.0.2.1:51820/udp]}
  firewalls:
    sys-firewall: {}
    sys-firewall-novpn: {upstream: sys-net}
  routes:
    qubes: {work: sys-firewall, untrusted: sys-firewall-novpn}
  outside_vpn: [untrusted]
"""


@pytest.fixture
def pillar(tmp_path):
    path = tmp_path / "pillar.sls"
    path.write_text(PILLAR)
    return str(path)


@pytest.fixture
def inventory(embedded, tmp_path):
    """The inventory of `embedded` in a file; a function, which takes it now."""
    path = tmp_path / "inventory.json"

    def take():
        machine = dom0.machine(embedded.path, dry=True)
        import qubes_vpn_inventory

        path.write_text(json.dumps(qubes_vpn_inventory.take(machine, {})))
        return str(path)

    return take


def as_json(capsys, *words):
    code = main(["plan", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def test_says_what_changes_from_what_to_what_and_why(pillar, inventory, capsys):
    assert main(["plan", pillar, "--inventory", inventory()]) == 1
    shown = capsys.readouterr().out
    assert (
        "\n 18. sys-firewall -> sys-dns\n       netvm: sys-net -> sys-dns\n       sys-dns is"
        in shown
    )
    assert "       firewall:\n         - action=accept\n         + action=accept proto=udp" in shown
    assert "\n 17. sys-firewall: provides network  (is so already)\n" in shown
    assert "In clear by choice, as outside_vpn says: untrusted -> sys-firewall-novpn" in shown
    assert shown.endswith("\n26 steps: 17 would be changed, the rest is so already.\n")


@pytest.mark.parametrize("release", ["4.2", "4.3"])
def test_an_inventory_is_as_good_as_the_machine(pillar, embedded, inventory, capsys):
    """R69. And neither is written to, nor is anything left beside a state file."""
    embedded.call("work", "admin.vm.Start")
    embedded.call("untrusted", "admin.vm.property.Set", "netvm", b"sys-net")
    path = inventory()
    files = sorted(embedded.path.parent.iterdir())
    before = embedded.snapshot()
    there = as_json(capsys, pillar, "--inventory", path)
    assert there == as_json(capsys, pillar, "--embedded", str(embedded.path))
    assert there[0] == 1
    assert embedded.snapshot() == before
    assert sorted(embedded.path.parent.iterdir()) == files


def test_the_same_steps_with_a_machine_and_without(pillar, capsys):
    code, steps = as_json(capsys, pillar)
    assert code == 0
    code, told = as_json(capsys, pillar, "--embedded", "fresh")
    assert code == 1
    assert [{key: step[key] for key in steps[0]} for step in told] == steps


def test_nothing_to_do(tmp_path, inventory, embedded, capsys):
    """Only a vault that is offline, and a tunnel that is all made by hand."""
    pillar = tmp_path / "pillar.sls"
    pillar.write_text(
        "qubes_vpn:\n"
        "  topology: custom\n"
        "  tunnels: {sys-vpn: {kind: wireguard, profile: a.conf, upstream: sys-net,\n"
        "    endpoints: [192.0.2.1:51820/udp], template: debian-13-minimal}}\n"
        "  vaults: [vault]\n"
    )
    settings = {"maxmem": b"600", "autostart": b"True", "provides_network": b"True"}
    rules = b"action=accept dst4=192.0.2.1 proto=udp dstports=51820\naction=drop\n"
    create = b"name=sys-vpn label=orange"
    embedded.call("dom0", "admin.vm.Create.AppVM", "debian-13-minimal", create)
    for key, value in {**settings, "netvm": b"sys-net", "memory": b"400"}.items():
        embedded.call("sys-vpn", "admin.vm.property.Set", key, value)
    for key in ("qubes-vpn", "network-manager"):
        embedded.call("sys-vpn", "admin.vm.feature.Set", f"service.{key}", b"1")
    embedded.call("sys-vpn", "admin.vm.firewall.Set", "", rules)
    code = main(["plan", str(pillar), "--inventory", inventory()])
    shown = capsys.readouterr().out
    assert code == 0, shown
    assert shown.endswith(" steps: nothing to do, all is so already.\n")


def test_what_breaks_is_said_and_what_is_restarted(pillar, embedded, inventory, capsys):
    """Untrusted runs, and goes to another netvm than it has."""
    embedded.call("untrusted", "admin.vm.Start")
    path = inventory()
    for words, text in {
        (): "breaks connections of what is running: untrusted",
        ("--restart-clients", "yes"): "untrusted: running -> restarted",
        ("--restart-clients", "ask"): "refused: ",
    }.items():
        assert main(["plan", pillar, "--inventory", path, *words]) == 1
        assert text in capsys.readouterr().out


def test_a_refusal_is_shown_and_ends_it(pillar, embedded, inventory, capsys):
    embedded.call("sys-net", "admin.vm.feature.Set", "service.qubes-firewall", b"")
    assert main(["plan", pillar, "--inventory", inventory()]) == 1
    shown = capsys.readouterr().out
    assert "refused: sys-net would not enforce the list." in shown
    assert "sys-vpn -> sys-net  (not foretold)" in shown
    assert "then the run stops, and 21 steps after it are not foretold." in shown


def test_a_pillar_with_problems_is_not_planned(tmp_path, capsys):
    pillar = tmp_path / "pillar.sls"
    pillar.write_text(PILLAR.replace("wireguard", "wiregard"))
    assert main(["plan", str(pillar), "--embedded", "fresh"]) == 2
    assert "Did you mean 'wireguard'?" in capsys.readouterr().out


WRONG = {
    "torn": (lambda text: text[: len(text) // 2], "not JSON, or only a part of it"),
    "empty": (lambda text: "", "not JSON, or only a part of it"),
    "other": (lambda text: '{"a": 1}', "this is no inventory of a machine"),
    "list": (lambda text: "[]", "this is no inventory of a machine"),
    "deep": (lambda text: "[" * 100000, "it is nested too deep"),
    "version": (
        lambda text: text.replace('"version": 1', '"version": 2'),
        "version 2 of the format, and this reads 1. Use the formula of one version",
    ),
    "release": (
        lambda text: text.replace('"release": "4.3"', '"release": "3.2"'),
        "release: it is one of 4.3, 4.2",
    ),
    "netvm": (
        lambda text: text.replace('"value": "sys-net"', '"value": "sys-nut"'),
        "qubes.sys-firewall.properties.netvm.value: there is no qube 'sys-nut' in it",
    ),
    "class": (
        lambda text: text.replace('"class": "AppVM"', '"class": "Qube"'),
        "class: there is no such class",
    ),
    "rule": (
        lambda text: text.replace("action=accept", "action=maybe"),
        "firewall[0]: this is no firewall rule",
    ),
    "type": (
        lambda text: text.replace('"value": 400,', '"value": "much",'),
        "properties.memory.value: 'much' is not possible here",
    ),
    "template": (
        lambda text: text.replace('"value": "fedora-42-xfce"', '"value": "work"', 1),
        "there can be no such machine",
    ),
    "loop": (
        lambda text: text.replace('"value": "fedora-42-xfce"', '"value": "work"'),
        "template: it goes round in a loop",
    ),
    "keys": (lambda text: text.replace('"tags"', '"togs"'), "the keys are class, power"),
    "globals": (lambda text: text.replace('"updatevm"', '"update"'), "globals: the keys are"),
    "features": (
        lambda text: text.replace('"features": {}', '"features": []'),
        "features: it is not a mapping",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_inventory_that_is_none(name, pillar, inventory, tmp_path, capsys):
    """One line, which names the file and says what to do; exit code 2."""
    spoil, text = WRONG[name]
    path = inventory()
    right = Path(path).read_text()
    wrong = tmp_path / "wrong.json"
    wrong.write_text(spoil(right))
    assert wrong.read_text() != right
    assert main(["plan", pillar, "--inventory", str(wrong)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"{wrong}:")
    assert text in shown.err
    assert "ake" in shown.err.partition(text)[2] + text  # take it again
    assert shown.err.count("\n") == 1


def test_any_edit_of_an_inventory_is_used_or_refused(pillar, inventory, tmp_path, capsys):
    """Every value in it replaced, one after the other: no traceback, whatever it was."""
    right = json.loads(Path(inventory()).read_text())
    wrong = tmp_path / "wrong.json"
    places = list(_places(right["qubes"]["sys-firewall"], ("qubes", "sys-firewall")))
    places += list(_places(right["globals"], ("globals",)))
    assert len(places) > 30
    values = (None, [], {}, "no such", 7, True, "\0")
    for number, place in enumerate(places):
        edited = json.loads(json.dumps(right))
        holder = edited
        for key in place[:-1]:
            holder = holder[key]
        for value in values:
            holder[place[-1]] = value
            wrong.write_text(json.dumps(edited))
            with contextlib.suppress(UserError):
                inventory_file.write_state(inventory_file.read(str(wrong)), tmp_path / "q", "x")
        holder[place[-1]] = values[number % len(values)]  # the whole command takes longer
        wrong.write_text(json.dumps(edited))
        code = main(["plan", pillar, "--inventory", str(wrong)])
        shown = capsys.readouterr()
        assert code == 1 or (code == 2 and shown.err.startswith(f"{wrong}: ")), place


def _places(value, path):
    """The path of everything in it."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from _places(item, (*path, key))


@pytest.mark.parametrize("text", ["", "{}", '{"release": "4.3", "state": 1}', "\0"])
def test_a_state_file_that_is_none(text, pillar, tmp_path, capsys):
    path = tmp_path / "state.json"
    path.write_text(text)
    assert main(["plan", pillar, "--embedded", str(path)]) == 2
    assert f"{path}: this is no embedded Qubes' state file" in capsys.readouterr().err
    assert list(tmp_path.glob("state*")) == [path]
    path.unlink()
    assert main(["plan", pillar, "--embedded", str(path)]) == 2
    assert f"{path}: no such file" in capsys.readouterr().err


def test_a_machine_with_much_on_it(tmp_path, pillar, embedded, inventory, capsys):
    """Disposables, standalone qubes, paused ones, other labels of qubes: all of it is copied."""
    call = embedded.call
    call("default-dvm", "admin.vm.property.Set", "memory", b"300")
    call("dom0", "admin.vm.Create.DispVM", "default-dvm", b"name=disp-mine label=red")
    call("dom0", "admin.vm.Create.StandaloneVM", "", b"name=alone label=blue")
    call("work", "admin.vm.Start")
    call("work", "admin.vm.Pause")
    first = json.loads(Path(inventory()).read_text())
    started = {"value": "1767225600.25", "inherited": True}  # which the embedded Qubes never has
    first["qubes"]["work"]["properties"]["start_time"] = started
    path = tmp_path / "copy.json"
    inventory_file.write_state(first, path, "x")
    copy = EmbeddedQubes(path)
    assert b"power_state=Paused" in copy.call("work", "admin.vm.CurrentState")
    machine = dom0.machine(path, dry=True)
    import qubes_vpn_inventory

    again = qubes_vpn_inventory.take(machine, {})
    assert again.pop("taken") >= first.pop("taken")
    assert again == first
