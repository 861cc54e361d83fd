# SPDX-License-Identifier: GPL-2.0-or-later
"""A plan that has asked a machine, or its inventory, says what the real run does (R69, R92)."""

import json

import pytest
from core.machines import BYSTANDERS, CLIENTS, VAULTS, pillars
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pillars import PILLARS
from salt.exceptions import CommandExecutionError
from snapshots import put_back

from qubes_vpn_formula.embedded.qubesd import AdminError, copied

FRESH = {}  # the machine as it was before the first example
RULES = (b"action=accept\n", b"action=drop\n", b"action=accept dsthost=a.example comment=mine\n")


def told_by(states):
    """What a run of the states did: id -> (changes, refusal)."""
    return {
        step: (answer.changes, answer.comment if answer.result is False else None)
        for step, answer in states.items()
    }


def told(steps):
    """The same of a plan, as far as it foretells."""
    return {
        step["id"]: (step["changes"], step["problem"])
        for step in steps
        if step["changes"] is not None
    }


def of_inventory(modules, pillar, monkeypatch, folder):
    """The same plan on an embedded Qubes that is made from the machine's inventory."""
    taken = json.loads(json.dumps(modules.qubes_vpn.inventory()))
    copy = folder / "copy.json"
    content = {"release": taken["release"], "state": copied.state(taken)}
    copy.write_text(json.dumps(content), encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setenv("QUBES_VPN_EMBEDDED", str(copy))
        return without_words(modules.qubes_vpn.plan(pillar, live=True)["steps"])


def without_words(steps):
    """What was done by hand is told by dom0's record, which is not the copy's."""
    return [{key: step[key] for key in step if key != "words"} for step in steps]


def call(embedded, *words):
    """A call that may be refused: then the machine stays as it is."""
    try:
        embedded.call(*words)
    except AdminError:
        return


def spoil(embedded, draw):
    """Makes the machine another one than Qubes installs."""
    fresh = embedded.snapshot()["qubes"]
    for name in (*CLIENTS, *VAULTS, *BYSTANDERS):
        if name not in fresh and draw(st.booleans()):
            embedded.call("dom0", "admin.vm.Create.AppVM", "", f"name={name} label=red".encode())
    names = [
        name for name, qube in embedded.snapshot()["qubes"].items() if qube["klass"] == "AppVM"
    ]
    for name in draw(st.lists(st.sampled_from(names), max_size=4)):
        netvm = draw(st.sampled_from([b"", b"sys-net", b"sys-firewall"]))
        call(embedded, name, "admin.vm.property.Set", "netvm", netvm)
        if draw(st.booleans()):
            call(embedded, name, "admin.vm.Start")
    for name in draw(st.lists(st.sampled_from(names), max_size=2)):
        call(embedded, name, "admin.vm.firewall.Set", "", draw(st.sampled_from(RULES)))
        call(embedded, name, "admin.vm.property.Set", "memory", b"500")
    if draw(st.booleans()):
        call(embedded, "dom0", "admin.property.Set", "default_netvm", b"")
    if draw(st.booleans()):
        call(embedded, "sys-firewall", "admin.vm.feature.Set", "service.qubes-firewall", b"")


@pytest.mark.parametrize("name", PILLARS)
def test_the_plan_foretells_the_run(modules, states, embedded, monkeypatch, tmp_path, name):
    """On the machine and on its inventory; asking writes nothing."""
    pillar = PILLARS[name]
    if pillar.get("whonix"):
        embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-whonix label=black")
        embedded.call("sys-whonix", "admin.vm.property.Set", "provides_network", b"True")
        embedded.forget_calls()
    steps = modules.qubes_vpn.plan(pillar, live=True)["steps"]
    assert any(step["changes"] for step in steps)
    assert of_inventory(modules, pillar, monkeypatch, tmp_path) == without_words(steps)
    assert embedded.writes() == []
    assert told(steps) == told_by(states.run(pillar))
    again = modules.qubes_vpn.plan(pillar, live=True)["steps"]
    assert [step["id"] for step in again if step["changes"]] == []


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_there_is_and_is_wanted(modules, states, embedded, monkeypatch, tmp_path, data):
    put_back(embedded, FRESH.setdefault(embedded.path, embedded.path.read_bytes()))
    states.record.unlink(missing_ok=True)  # nobody was left offline by the example before
    spoil(embedded, data.draw)
    pillar = data.draw(pillars())
    embedded.forget_calls()
    steps = modules.qubes_vpn.plan(pillar, live=True)["steps"]
    assert of_inventory(modules, pillar, monkeypatch, tmp_path) == without_words(steps)
    assert embedded.writes() == []
    assert told(steps) == told_by(states.run(pillar))


def test_a_refused_step_is_the_last_that_is_foretold(modules, embedded):
    """sys-firewall would enforce no list: the run stops at sys-vpn's."""
    embedded.call("sys-firewall", "admin.vm.feature.Set", "service.qubes-firewall", b"")
    steps = modules.qubes_vpn.plan(PILLARS["simple"], live=True)["steps"]
    (refused,) = [number for number, step in enumerate(steps) if step["problem"]]
    assert steps[refused]["id"] == "sys-vpn: may reach its endpoints only"
    assert "sys-firewall would not enforce the list" in steps[refused]["problem"]
    assert all(step["changes"] is not None for step in steps[: refused + 1])
    assert [step["changes"] for step in steps[refused + 1 :]] == [None] * (len(steps) - refused - 1)


def test_a_plan_for_an_sls_asks_nobody(modules, embedded):
    """An SLS hands its pillar in."""
    steps = modules.qubes_vpn.plan(PILLARS["dns"])["steps"]
    assert embedded.calls() == []
    assert all("changes" not in step for step in steps)


def test_without_qubesd_it_is_said_in_words(modules, monkeypatch):
    monkeypatch.delenv("QUBES_VPN_EMBEDDED")
    with pytest.raises(CommandExecutionError, match="dom0's qubesd does not answer"):
        modules.qubes_vpn.plan(PILLARS["dns"], live=True)
    with pytest.raises(CommandExecutionError, match="dom0's qubesd does not answer"):
        modules.qubes_vpn.inventory()


@pytest.mark.parametrize("release", ["4.2", "4.3"])
def test_an_inventory_is_the_machine_and_nothing_private(modules, embedded, tmp_path, release):
    """R33. What is not on its lists is not copied, whatever it is called."""
    secret = "hunter2" * 3
    key = "Q" * 43 + "="
    embedded.call("work", "admin.vm.feature.Set", "x-my-token", secret.encode())
    embedded.call("work", "admin.vm.property.Set", "kernelopts", f"pw={secret}".encode())
    embedded.call("work", "admin.vm.tag.Set", secret)
    rules = f"action=accept comment=my bank\naction=drop comment={key.replace('=', '')}\n"
    embedded.call("work", "admin.vm.firewall.Set", "", rules.encode())
    embedded.call("dom0", "admin.vm.feature.Set", "x-qubes-vpn-making.t-new", b"1")
    embedded.call("work", "admin.vm.Start")
    before = embedded.snapshot()
    path = tmp_path / "inventory.json"
    assert modules.qubes_vpn.inventory(path=str(path)).startswith(str(path))
    assert embedded.snapshot() == before
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert secret not in text
    taken = json.loads(text)
    again = modules.qubes_vpn.inventory()
    assert again.pop("taken") >= taken.pop("taken")
    assert again == taken
    assert taken["release"] == release
    assert set(taken["qubes"]) == set(before["qubes"])
    assert taken["qubes"]["dom0"]["features"] == {"x-qubes-vpn-making.t-new": "1"}
    work = taken["qubes"]["work"]
    assert work["power"] == "Running"
    assert work["firewall"][0] == "action=accept comment=my bank"
    assert work["properties"]["netvm"] == {"value": "sys-firewall", "inherited": True}


def test_a_comment_that_looks_like_a_secret_is_not_copied(modules, embedded):
    account = "1234 5678 9012 3456"
    rule = f"action=accept comment=account {account}\n"
    embedded.call("work", "admin.vm.firewall.Set", "", rule.encode())
    taken = modules.qubes_vpn.inventory()
    assert taken["qubes"]["work"]["firewall"] == ["action=accept comment=not shown"]
    assert account not in json.dumps(taken)


def test_a_comment_that_looks_like_a_secret_is_not_told_of(states, modules, embedded):
    """R33. Neither before our list takes its place nor when it is back."""
    rule = "action=accept comment=password: hunter2hunter2"
    embedded.call("work", "admin.vm.firewall.Set", "", f"{rule}\n".encode())
    pillar = {**PILLARS["dns"], "allowlists": {"work": ["bank.example:443/tcp", "dns"]}}
    told = [modules.qubes_vpn.plan(pillar, live=True), states.run(pillar, test=True)]
    told += [states.run(pillar), states.undo(test=True), states.undo()]
    assert embedded.call("work", "admin.vm.firewall.Get").decode().startswith(rule)
    told += [modules.qubes_vpn.inventory()]
    assert "action=accept comment=not shown" in told[-1]["written"]["work"]["firewall"]
    assert all("comment=not shown" in str(each) for each in told)
    assert "hunter2" not in str(told)


@pytest.mark.parametrize("kill", ["before", "in"], ids=["half made", "whole"])
def test_an_inventory_tells_a_half_made_template_from_a_whole_one(
    states, modules, embedded, monkeypatch, tmp_path, kill
):
    """R69, R92. Killed before the system was copied, or after that and before the note went."""
    embedded.fail(dest="t-vpn", method="admin.vm.volume.CloneTo", arg="root", kill=kill)
    assert states.run_in_child(PILLARS["dns"]) == -9
    embedded.snapshot()  # waits for a qubesd that goes on for nobody
    live = without_words(modules.qubes_vpn.plan(PILLARS["dns"], live=True)["steps"])
    (first,) = [step for step in live if step["args"]["name"] == "t-vpn" and step["changes"]]
    new = {"before": "removed", "in": "completed"}[kill]
    assert first["changes"]["left half made"]["new"] == new
    assert of_inventory(modules, PILLARS["dns"], monkeypatch, tmp_path) == live


def test_an_inventory_needs_a_whole_path(modules, tmp_path):
    with pytest.raises(CommandExecutionError, match="write the whole path, such as /tmp/in"):
        modules.qubes_vpn.inventory(path="in")
    with pytest.raises(CommandExecutionError, match="cannot be written"):
        modules.qubes_vpn.inventory(path=str(tmp_path / "no/such/folder"))
