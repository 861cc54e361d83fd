# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine in one file: shared by processes, counted, and made to fail."""

import contextlib
import signal
import subprocess
import sys

import pytest

from qubes_vpn_formula.embedded.calls import Call
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.embedded.qubesd import AdminError, EmptyAnswer


def in_child(embedded, code):
    """Runs Python code with `embedded` in another process."""
    start = (
        "import sys\n"
        "from qubes_vpn_formula.embedded.machine import EmbeddedQubes\n"
        "embedded = EmbeddedQubes(sys.argv[1])\n"
    )
    return subprocess.run([sys.executable, "-c", start + code, embedded.path], check=False)


def netvm_of(embedded, qube):
    return embedded.call(qube, "admin.vm.property.Get", "netvm").split(b" ")[-1].decode()


def tags_of(embedded):
    return set(embedded.call("work", "admin.vm.tag.List").decode().split())


def test_a_new_machine_is_the_one_of_the_contract(embedded):
    listed = embedded.call("dom0", "admin.vm.List").decode()
    names = [line.split(" ")[0] for line in listed.splitlines()]
    assert names[0] == "dom0"
    assert {"sys-net", "sys-firewall", "debian-13-minimal", "work", "vault"} <= set(names)
    assert netvm_of(embedded, "work") == "sys-firewall"


@pytest.mark.parametrize("release", ["4.3", "4.2"])
def test_the_release_is_kept_in_the_file(tmp_path, release):
    path = tmp_path / "qubes.json"
    classes = EmbeddedQubes(path, release).call("dom0", "admin.vmclass.List")
    assert EmbeddedQubes(path).release == release
    assert EmbeddedQubes(path).call("dom0", "admin.vmclass.List") == classes
    assert (b"RemoteVM" in classes) == (release == "4.3")
    with pytest.raises(ValueError, match=f"Qubes {release}"):
        EmbeddedQubes(path, "4.2" if release == "4.3" else "4.3")


def test_another_process_sees_a_change_and_we_see_its(embedded):
    embedded.call("work", "admin.vm.tag.Set", "ours")
    code = """
assert b"ours" in embedded.call("work", "admin.vm.tag.List")
embedded.call("work", "admin.vm.tag.Set", "theirs")
"""
    assert in_child(embedded, code).returncode == 0
    assert {"ours", "theirs"} <= tags_of(embedded)


def test_processes_at_once_lose_nothing(embedded):
    code = """
import os
for number in range(20):
    embedded.call("work", "admin.vm.tag.Set", f"p{os.getpid()}-{number}")
"""
    start = "import sys; from qubes_vpn_formula.embedded.machine import EmbeddedQubes\n"
    start += "embedded = EmbeddedQubes(sys.argv[1])\n"
    command = [sys.executable, "-c", start + code, embedded.path]
    before = tags_of(embedded)
    children = [subprocess.Popen(command) for _ in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    assert len(tags_of(embedded) - before) == 80
    assert len([call for call in embedded.calls() if call.write]) == 80


def test_reading_does_not_touch_the_file(embedded):
    before = embedded.path.stat()
    embedded.call("dom0", "admin.vm.List")
    embedded.call("work", "admin.vm.property.GetAll")
    assert embedded.path.stat().st_ino == before.st_ino
    embedded.call("work", "admin.vm.tag.Set", "x")
    assert embedded.path.stat().st_ino != before.st_ino


def test_calls_are_logged_without_payload(embedded):
    embedded.call("dom0", "admin.vm.List")
    embedded.call("vault", "admin.vm.feature.Set", "x-note", b"secret")
    with pytest.raises(AdminError):
        embedded.call("vault", "admin.vm.feature.Get", "nosuch")
    with pytest.raises(EmptyAnswer):
        embedded.call("vault", "admin.nosuch")
    assert embedded.calls() == [
        Call("dom0", "admin.vm.List", "", False, "ok"),
        Call("vault", "admin.vm.feature.Set", "x-note", True, "ok"),
        Call("vault", "admin.vm.feature.Get", "nosuch", False, "QubesFeatureNotFoundError"),
        Call("vault", "admin.nosuch", "", False, "empty"),
    ]
    assert "secret" not in embedded.path.with_name("qubes.json.calls").read_text()
    embedded.forget_calls()
    assert embedded.calls() == []


@pytest.mark.parametrize(
    ("method", "write"),
    [
        ("admin.vm.property.Set", True),
        ("admin.property.Reset", True),
        ("admin.vm.Create.AppVM", True),
        ("admin.vm.Remove", True),
        ("admin.vm.Start", True),
        ("admin.vm.Kill", True),
        ("admin.vm.firewall.Set", True),
        ("admin.vm.feature.Remove", True),
        ("admin.vm.volume.CloneTo", True),
        ("admin.vm.notes.Set", True),
        ("admin.vm.property.GetAll", False),
        ("admin.vm.property.GetDefault", False),
        ("admin.vm.feature.CheckWithTemplate", False),
        ("admin.vm.volume.Info", False),
        ("admin.vm.CurrentState", False),
        ("admin.vm.firewall.Get", False),
    ],
)
def test_what_counts_as_a_write(embedded, method, write):
    with contextlib.suppress(AdminError, EmptyAnswer):
        embedded.call("work", method)
    assert embedded.calls()[0].write is write


def test_setting_what_is_set_is_a_write(embedded):
    embedded.call("work", "admin.vm.tag.Set", "x")
    embedded.call("work", "admin.vm.tag.Set", "x")
    assert [call.write for call in embedded.calls()] == [True, True]


def test_a_value_that_is_refused_and_stored_is_stored(embedded):
    with pytest.raises(AdminError, match="QubesValueError"):
        embedded.call("work", "admin.vm.feature.Set", "custom-persist.a", b"relative")
    other = EmbeddedQubes(embedded.path)
    assert other.call("work", "admin.vm.feature.Get", "custom-persist.a") == b"relative"


def test_a_fault_strikes_at_its_call_and_once(embedded):
    embedded.fail(at=3, error="QubesVMError")
    embedded.call("work", "admin.vm.tag.Set", "one")
    embedded.call("work", "admin.vm.tag.Set", "two")
    with pytest.raises(AdminError, match="QubesVMError"):
        embedded.call("work", "admin.vm.tag.Set", "three")
    embedded.call("work", "admin.vm.tag.Set", "four")
    assert tags_of(embedded) & {"one", "two", "three", "four"} == {"one", "two", "four"}


def test_a_fault_can_be_for_some_calls_only(embedded):
    embedded.fail(method="admin.vm.property.*", arg="netvm", write=True, at=2, error="")
    embedded.call("work", "admin.vm.property.Set", "memory", b"500")
    embedded.call("work", "admin.vm.property.Get", "netvm")
    embedded.call("work", "admin.vm.property.Set", "netvm", b"sys-net")
    with pytest.raises(EmptyAnswer):
        embedded.call("work", "admin.vm.property.Reset", "netvm")
    assert netvm_of(embedded, "work") == "sys-net"


def test_a_lasting_fault_strikes_from_then_on(embedded):
    embedded.fail(write=True, at=2, error="QubesValueError", once=False)
    embedded.call("work", "admin.vm.tag.Set", "x")
    for _ in range(2):
        with pytest.raises(AdminError):
            embedded.call("work", "admin.vm.tag.Set", "x")
    embedded.call("work", "admin.vm.tag.List")


@pytest.mark.parametrize(
    "arguments", [{}, {"kill": "during"}, {"error": "", "at": 0}, {"kill": "in", "done": True}]
)
def test_a_fault_that_makes_no_sense_is_refused(embedded, arguments):
    with pytest.raises(ValueError, match=r"error=|kill=|at=|done="):
        embedded.fail(**arguments)


def test_an_answer_is_lost_and_the_call_is_done(embedded):
    embedded.fail(method="admin.vm.property.Set", error="", done=True)
    with pytest.raises(EmptyAnswer):
        embedded.call("work", "admin.vm.property.Set", "netvm", b"sys-net")
    assert netvm_of(embedded, "work") == "sys-net"


@pytest.mark.parametrize(
    ("kill", "netvm"), [("before", "sys-firewall"), ("in", "sys-net"), ("after", "sys-net")]
)
def test_a_process_is_killed_before_in_or_after_its_call(embedded, kill, netvm):
    embedded.fail(method="admin.vm.property.Set", kill=kill)
    code = """
embedded.call("work", "admin.vm.property.Get", "netvm")
embedded.call("work", "admin.vm.property.Set", "netvm", b"sys-net")
embedded.call("work", "admin.vm.property.Set", "memory", b"500")
"""
    assert in_child(embedded, code).returncode == -signal.SIGKILL
    assert netvm_of(embedded, "work") == netvm
    assert [call.outcome for call in embedded.calls()][:2] == ["ok", f"killed {kill}"]
    assert in_child(embedded, code).returncode == 0
    assert netvm_of(embedded, "work") == "sys-net"


def test_a_snapshot_is_the_state_and_no_call(embedded):
    before = embedded.snapshot()
    embedded.call("work", "admin.vm.tag.Set", "x")
    assert embedded.snapshot() != before
    embedded.call("work", "admin.vm.tag.Remove", "x")
    assert embedded.snapshot()["qubes"] == before["qubes"]
    assert len(embedded.calls()) == 2
