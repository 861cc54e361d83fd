# SPDX-License-Identifier: GPL-2.0-or-later
"""A template gets a netvm by an explicit switch, and loses it whatever happens (R23).

By a stand-in for qubesctl, see qubesctl.py for where it differs from Qubes'.
"""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from pillars import PILLARS
from snapshots import put_back

from qubes_vpn_formula.embedded import front
from qubes_vpn_formula.embedded.qubesd.method import writes

PILLAR = {
    **PILLARS["dns"],
    "templates": {
        "t-vpn": {"clone_of": "debian-13-minimal", "netvm_while_installing": "sys-firewall"}
    },
}
STEP = "t-vpn: its software"
ERROR = "t-vpn: ERROR (exit code 20, details in /var/log/qubes/mgmt-t-vpn.log)"
BEHIND = "the netvm sys-firewall (sys-firewall -> sys-dns -> sys-vpn -> sys-net)"


@pytest.fixture
def qubesctl(tmp_path, monkeypatch):
    """The stand-in on PATH."""
    path = os.pathsep.join([str(front.FOLDER), str(Path(front.__file__).parents[3])])
    program = tmp_path / "bin" / "qubesctl"
    program.parent.mkdir()
    stand_in = Path(__file__).with_name("qubesctl.py")
    program.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} {stand_in} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.fixture
def ready(states, embedded, qubesctl):
    """dom0's part is done."""
    assert all(state.result for state in states.run(PILLAR).values())
    embedded.forget_calls()


def template(snapshot):
    """(netvm, firewall list) of t-vpn."""
    qube = snapshot["qubes"]["t-vpn"]
    return qube["properties"].get("netvm"), qube["rules"]


CLOSED = (None, ["action=drop"])


def test_what_was_never_opened_is_left_alone(states, embedded, ready):
    assert template(embedded.snapshot()) == (None, ["action=accept"])
    assert all(state.changes == {} for state in states.run(PILLAR).values())
    assert embedded.writes() == []


def test_without_need_there_is_no_netvm(states, embedded, ready, monkeypatch):
    """The updates proxy is enough: then a run changes nothing, and a second one neither."""
    monkeypatch.setenv("QUBESCTL_PROXY", "1")
    done = states.run(PILLAR, "templates")[STEP]
    assert (done.result, done.changes) == (True, {})
    assert done.comment == "qubes.network.sys-vpn is applied in t-vpn. It needed no netvm."
    assert {call.method for call in embedded.writes()} == {"admin.vm.Start", "admin.vm.Shutdown"}
    again = states.run(PILLAR, "templates")[STEP]
    assert (again.result, again.changes) == (True, {})


def test_a_netvm_comes_after_its_list_and_goes_before_it(states, embedded, ready, after_each_write):
    dry = states.run(PILLAR, "templates", test=True)[STEP]
    assert dry.comment == (
        "would apply qubes.network.sys-vpn in t-vpn, without a netvm. Only if that fails, once "
        f"more with {BEHIND} for at most 60 minutes; that cannot be known before."
    )
    assert embedded.writes() == []
    done = states.run(PILLAR, "templates")[STEP]
    assert done.result is True
    assert done.comment == (
        f"changed\nWithout a netvm: {ERROR}. So t-vpn had {BEHIND}, and has none any more."
    )
    assert template(embedded.snapshot()) == CLOSED
    online = [rules for netvm, rules in map(template, after_each_write) if netvm]
    assert online
    for rules in online:
        assert rules[-1] == "action=drop"
        words = [set(rule.split()) for rule in rules[:-1]]
        ends = [{word for word in rule if word.startswith("expire=")} for rule in words]
        assert [rule - end for rule, end in zip(words, ends, strict=True)] == [
            {"action=accept", "specialtarget=dns"},
            {"action=accept", "proto=tcp", "dstports=80-80"},
            {"action=accept", "proto=tcp", "dstports=443-443"},
        ]
        left = [int(end.pop().removeprefix("expire=")) - time.time() for end in ends]
        assert all(3600 < seconds <= 3900 for seconds in left)


def test_a_failure_takes_it_away(states, embedded, ready, monkeypatch):
    monkeypatch.setenv("QUBESCTL_FAILS", "1")
    done = states.run(PILLAR, "templates")[STEP]
    assert (done.result, done.changes) == (False, {})
    assert done.comment.startswith(
        "qubes.network.sys-vpn was not applied in t-vpn, with netvm sys-firewall either: "
        f"{ERROR}.\n"
    )
    assert template(embedded.snapshot()) == CLOSED


def test_what_does_not_end_is_stopped_and_it_is_taken_away(
    states, embedded, ready, tmp_path, monkeypatch
):
    monkeypatch.setattr("qubes_vpn_software._PATIENCE", 3)
    monkeypatch.setenv("QUBESCTL_WAITS", str(tmp_path))
    done = states.run(PILLAR, "templates")[STEP]
    assert "qubesctl did not end within 3 seconds" in done.comment
    assert template(embedded.snapshot()) == CLOSED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_takes_it_away(states, embedded, ready, tmp_path, monkeypatch, number):
    monkeypatch.setenv("QUBESCTL_WAITS", str(tmp_path))
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            states.run(PILLAR, "templates")
        finally:
            os._exit(0)
    until(lambda: template(embedded.snapshot())[0] and running(embedded))
    os.kill(child, number)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0  # not killed by it
    assert template(embedded.snapshot()) == CLOSED


def running(embedded):
    return embedded.snapshot()["qubes"]["t-vpn"]["power"] == "Running"


def until(true):
    """Waits for it, half a minute at most."""
    for _ in range(300):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come to that")


@pytest.mark.one_salt
@pytest.mark.timeout(300)
def test_killed_after_any_write_the_next_run_takes_it_away_first(states, embedded, ready):
    """R23, R92. Of any SLS of dom0's; until then its list lets through little, and not for long."""
    start, left_online = embedded.path.read_bytes(), 0
    states.run(PILLAR, "templates")
    made = [number for number, call in enumerate(embedded.calls(), 1) if writes(call.method)]
    for number in made:
        put_back(embedded, start)
        embedded.fail(kill="after", at=number)
        assert states.run_in_child(PILLAR, "templates") in (0, 1, -signal.SIGKILL)
        killed = embedded.path.read_bytes()
        netvm, rules = template(embedded.snapshot())
        remains = netvm or "expire=" in str(rules)
        left_online += bool(netvm)
        assert netvm is None or all("expire=" in rule for rule in rules[:-1])
        for part in ("network", "layout", "templates") if remains else ():
            put_back(embedded, killed)
            (name, first), *_ = states.run(PILLAR, part).items()
            assert (name, first.result) == ("t-vpn: no netvm", True)
            assert set(first.changes) == {"firewall", *(["netvm"] if netvm else [])}
            assert template(embedded.snapshot()) == CLOSED
    assert left_online


def test_meanwhile_it_is_named_as_a_way_round(states, embedded, ready):
    """R07. On a machine where the netvm leads past the VPN."""
    embedded.call("t-vpn", "admin.vm.property.Set", "netvm", b"sys-net")
    roles = {"sys-vpn": "tunnel", "sys-firewall": "firewall", "sys-dns": "resolver"}
    told = states.ways_round("ways", guard=guard(), roles=roles).comment
    assert "t-vpn" in told


def guard():
    return {
        "uplink": "sys-net",
        "shelters": ["sys-vpn"],
        "services": ["sys-vpn", "sys-firewall", "sys-dns"],
        "outside_vpn": [],
    }


def test_a_way_past_the_vpn_that_the_pillar_does_not_say_is_refused(states, embedded, ready):
    embedded.call("sys-firewall", "admin.vm.property.Set", "netvm", b"sys-net")
    for test in (True, False):
        done = states.run(PILLAR, "templates", test=test)[STEP]
        assert (done.result, done.comment) == (
            False,
            "sys-firewall leads past the VPN now (sys-firewall -> sys-net). Run "
            "qubes.network.sys-vpn in dom0 first.",
        )


@pytest.mark.parametrize("test", [True, False])
def test_a_tunnel_that_has_no_list_yet_is_refused(states, embedded, ready, test):
    """R23, R12. A qube of that name may be anything."""
    embedded.call("sys-vpn", "admin.vm.firewall.Set", "", b"action=accept proto=tcp\naction=drop\n")
    templates = {"t-vpn": {**PILLAR["templates"]["t-vpn"], "netvm_while_installing": "sys-vpn"}}
    done = states.run({**PILLAR, "templates": templates}, "templates", test=test)[STEP]
    assert done.result is False
    assert "sys-vpn lacks the pillar's firewall list). Run qubes.network.sys-vpn" in done.comment


def test_a_way_past_the_vpn_that_the_pillar_says_is_told(states, embedded, ready):
    """The user's choice: before there is a tunnel there is no other way."""
    templates = {"t-vpn": {**PILLAR["templates"]["t-vpn"], "netvm_while_installing": "sys-net"}}
    done = states.run({**PILLAR, "templates": templates}, "templates")[STEP]
    assert done.result is True
    assert "had the netvm sys-net (sys-net, past the VPN), and has none any more" in done.comment
    assert template(embedded.snapshot()) == CLOSED


def test_a_netvm_that_does_not_enforce_lists_is_refused(states, embedded, ready):
    embedded.call("sys-firewall", "admin.vm.feature.Set", "service.qubes-firewall", b"")
    done = states.run(PILLAR, "templates")[STEP]
    assert done.comment.startswith("sys-firewall would not enforce t-vpn's firewall list")


def test_a_template_in_use_is_refused(states, embedded, ready):
    embedded.call("t-vpn", "admin.vm.Start")
    done = states.run(PILLAR, "templates")[STEP]
    assert done.comment == (
        "t-vpn is running. Shut it down (qvm-shutdown t-vpn), then run this again."
    )


def test_a_machine_without_the_templates_is_told_what_to_run_first(states, embedded, qubesctl):
    done = states.run(PILLAR, "templates")
    assert done["t-vpn: no netvm"].changes == {}
    assert done[STEP].comment == (
        "there is no template 't-vpn'. Run qubes.network.sys-vpn in dom0 first."
    )


def test_the_sls(salt_text, embedded):
    told = salt_text("state.show_sls", "qubes.network.template-netvm", pillar=PILLAR)
    assert told.code == 0, told.stdout
    assert "template_software" in told.stdout
    none = salt_text("state.sls", "qubes.network.template-netvm", pillar=PILLARS["dns"])
    assert none.code == 0
    assert "No template in the pillar has netvm_while_installing." in none.stdout
