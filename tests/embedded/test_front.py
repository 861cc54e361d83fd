# SPDX-License-Identifier: GPL-2.0-or-later
"""Our `qubesadmin`: what a formula sees of it, and what it calls.

test_real_client.py shows that the real client does the same, where there is one.
"""

import json
import subprocess
import sys
from pathlib import Path

import client_cases
import pytest

from qubes_vpn_formula.embedded import front

HERE = Path(__file__).parent


@pytest.fixture
def see(embedded):
    """Runs a case of client_cases on the front in a process of its own, and answers what it saw."""

    def run(case):
        command = [sys.executable, HERE / "run_case.py", case]
        child = subprocess.run(
            command, env=front.environ(embedded.path), stdout=subprocess.PIPE, check=True
        )
        return json.loads(child.stdout)

    return run


def calls_of(embedded):
    return [f"{call.dest} {call.method} {call.arg}".rstrip() for call in embedded.calls()]


def test_without_a_machine_the_error_says_what_to_set(tmp_path):
    environment = front.environ("")
    del environment["QUBES_VPN_EMBEDDED"]
    child = subprocess.run(
        [sys.executable, "-c", "import qubesadmin; qubesadmin.Qubes()"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 1
    assert "QubesDaemonCommunicationError: QUBES_VPN_EMBEDDED is not set" in child.stderr


def test_the_environment_keeps_what_was_there():
    environment = front.environ("state", {"PYTHONPATH": "/a:/b", "HOME": "/root"})
    assert environment == {
        "PYTHONPATH": f"{front.FOLDER}:/a:/b",
        "HOME": "/root",
        "QUBES_VPN_EMBEDDED": "state",
    }


def test_lists(see, embedded):
    seen = see("lists")
    assert ["work", "AppVM", "Halted", False] in seen["qubes"]
    assert ["dom0", "AdminVM", "Running", True] in seen["qubes"]
    assert seen["in"] == [True, False, True]
    assert seen["missing"][0] is None
    assert seen["missing"][1][0] == "KeyError"
    assert seen["label"] == [False, True, "blue"]
    assert calls_of(embedded).count("dom0 admin.vm.List") == 1
    assert calls_of(embedded).count("dom0 admin.label.List") == 1


def test_properties(see, embedded):
    seen = see("properties")
    assert seen["read"]["netvm"] == "<sys-firewall>"
    assert seen["read"]["memory"] == 400
    assert seen["default"]["netvm"] is True
    assert seen["written"][:3] == ["<sys-net>", 500, True]
    assert seen["none"] == [None, False, False]
    assert seen["get default"] == ["<sys-firewall>", 400]
    assert seen["reset"] == ["<sys-firewall>", True, 400]
    assert seen["inherited"] == "<sys-net>"
    assert "work admin.vm.property.Set netvm" in calls_of(embedded)
    assert calls_of(embedded)[-2:] == [
        "dom0 admin.property.Reset updatevm",
        "dom0 admin.property.Get updatevm",
    ]


def test_property_errors(see):
    seen = see("property_errors")
    assert seen["unknown"][0] == seen["set unknown"][0] == "QubesNoSuchPropertyError"
    assert seen["bad value"][0] == "QubesPropertyValueError"
    assert seen["bad netvm"][0] == "QubesValueError"
    assert seen["empty answer"][0] == "QubesPropertyAccessError"
    # getattr(qube, name, None) hides that the qube is gone
    assert seen["gone"] == [seen["empty answer"], "hidden"]
    assert "AttributeError" in seen["empty answer"]
    assert seen["gone, list"][0] == "QubesVMNotFoundError"
    assert seen["gone, state"] == "NA"


def test_the_cache_is_one_call_and_stays_stale(see, embedded):
    seen = see("cached_properties")
    assert seen["stale"] == [*seen["read"][:1], True]
    assert seen["fresh"] == ["<sys-net>", False]
    assert seen["power, stale"] == seen["power, listed anew"] == "Halted"
    assert calls_of(embedded) == [
        "dom0 admin.vm.List",
        "work admin.vm.property.GetAll",
        "work admin.vm.property.Set netvm",
        "work admin.vm.property.GetAll",
        "dom0 admin.property.Set default_netvm",
        "dom0 admin.property.GetAll",
        "dom0 admin.property.Set default_netvm",
        "work admin.vm.Start",
        "dom0 admin.vm.List",
        "nosuch admin.vm.property.GetAll",
    ]


def test_features(see, embedded):
    seen = see("features")
    assert seen["none"] == [None, "d"]
    assert seen["items"] == {
        "x-a": "text",
        "service.qubes-vpn": "1",
        "x-off": "",
        "x-number": "0",
    }
    assert seen["missing"][0] == "QubesFeatureNotFoundError"
    assert "KeyError" in seen["missing"]
    assert seen["no template"] == "d"
    # items() asks once for the list, and once for each feature
    start = calls_of(embedded).index("work admin.vm.feature.List")
    got = [call.split()[1].rpartition(".")[2] for call in calls_of(embedded)[start : start + 5]]
    assert got == ["List", "Get", "Get", "Get", "Get"]


def test_tags(see):
    seen = see("tags")
    assert {"vpn", "b", "c"} <= set(seen["all"])
    assert seen["in"] == [True, False]
    assert seen["missing"][0] == "QubesTagNotFoundError"
    assert seen["bad"][0] == "QubesDaemonAccessError"


def test_rules(see, embedded):
    seen = see("rules")
    sent = dict(zip(client_cases.RULES, seen["sent"], strict=True))
    assert sent["action=accept proto=udp dst4=185.65.135.68 dstports=51820"] == (
        "action=accept proto=udp dst4=185.65.135.68/32 dstports=51820-51820"
    )
    assert sent["action=accept dst6=::/0"] == "action=accept"
    assert not any(seen["equal to text"])
    assert seen["equal to rule"] == [True, False, False]
    assert set(seen["no rules"]) == {"ValueError"}
    assert seen["no hash"][0] == seen["no hash of a part"][0] == "TypeError"
    assert embedded.calls() == []


def test_firewall(see, embedded):
    seen = see("firewall")
    endpoint = "action=accept proto=udp dst4=185.65.135.68/32 dstports=51820-51820 comment=one"
    assert seen["first"] == seen["kept"] == ["action=accept"]
    assert seen["loaded"] == [endpoint, "action=drop"]
    assert seen["another object"] == [
        "action=accept specialtarget=dns",
        endpoint,
        "action=drop",
        "action=drop",
    ]
    assert seen["empty"] == []
    assert seen["too many"][0] == "QubesDaemonAccessError"
    assert len([call for call in embedded.calls() if call.method == "admin.vm.firewall.Set"]) == 5


def test_power(see):
    seen = see("power")
    assert seen["started"][:2] == ["Running", "Running"]
    assert {"work", "personal"} <= set(seen["clients"])
    assert seen["in use"] == ["QubesVMInUseError"]
    assert seen["not halted"][0] == "QubesVMNotHaltedError"
    assert seen["paused"] == ["Paused", True, True]
    assert seen["forced"] is True


def test_create(see, embedded):
    seen = see("create")
    assert seen["made"] == ["AppVM", "orange", "debian-13-minimal", True]
    assert seen["templates"] == ["fedora-42-xfce", "debian-13-minimal"]
    assert seen["in use"][0] == "QubesVMInUseError"
    assert seen["removed"] == [False, None]
    assert "QubesVMNotFoundError" in seen["gone"]
    assert calls_of(embedded)[:2] == [
        "dom0 admin.vm.Create.AppVM debian-13-minimal",
        "dom0 admin.vm.List",
    ]


def test_a_clone_is_made_call_by_call(see, embedded):
    seen = see("clone_uncached")
    assert seen["copy"] == [600, True, "<sys-net>", True, "<yellow>", "<fedora-42-xfce>"]
    assert seen["features"] == {"servicevm": "1", "x-mark": "1", "x-off": ""}
    assert seen["rules"] == ["action=accept dst4=1.2.3.4/32"]
    assert "mine" in seen["tags"]
    assert seen["template"] == ["TemplateVM", "black", None]
    writes = [
        f"{call.method} {call.arg}"
        for call in embedded.writes()
        if call.dest == "copy" and not call.method.endswith("CloneTo")
    ]
    assert writes == [
        "admin.vm.property.Set autostart",
        "admin.vm.property.Set memory",
        "admin.vm.property.Set provides_network",
        "admin.vm.property.Set netvm",
        "admin.vm.tag.Set audiovm-dom0",
        "admin.vm.tag.Set guivm-dom0",
        "admin.vm.tag.Set mine",
        "admin.vm.feature.Set servicevm",
        "admin.vm.feature.Set x-mark",
        "admin.vm.feature.Set x-off",
        "admin.vm.firewall.Set ",
    ]


def test_a_clone_with_the_cache_on_is_left_half_made(see):
    seen = see("clone_cached")
    assert seen == {
        "died": ["AttributeError", "Exception", "BaseException", "object"],
        "left": True,
    }


def test_a_clone_that_is_refused_is_removed(see):
    seen = see("clone_refused")
    assert seen["died"][0] == "QubesDaemonAccessError"
    assert seen["left"] is False
    assert seen["kept"] == "kept"


@pytest.mark.parametrize("release", ["4.2"])
def test_a_clone_on_4_2_asks_for_no_notes(see, embedded):
    see("clone_uncached")
    assert not [call for call in embedded.calls() if "notes" in call.method]


def test_notes(see):
    assert see("clone_with_notes") == {"notes": ["first\nsecond", "first\nsecond", ""]}


def test_volumes(see):
    assert see("volumes")["private"] == ["private", "varlibqubes", 2147483648, True, False, True]


@pytest.mark.parametrize(
    ("error", "case", "class_name"),
    [
        ("QubesVMError", "tags", "QubesVMError"),
        ("QubesMemoryError", "tags", "QubesMemoryError"),
        ("", "tags", "QubesDaemonAccessError"),
        ("NoSuchError", "tags", "QubesException"),
    ],
)
def test_injected_errors_arrive_as_their_class(embedded, error, case, class_name):
    embedded.fail(write=True, error=error)
    child = subprocess.run(
        [sys.executable, HERE / "run_case.py", case],
        env=front.environ(embedded.path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 1
    assert child.stderr.splitlines()[-1].startswith(f"qubesadmin.exc.{class_name}: ")
