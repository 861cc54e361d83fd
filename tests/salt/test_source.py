# SPDX-License-Identifier: GPL-2.0-or-later
"""A template that is to be cloned and is not there is installed (R20).

By a stand-in for qvm-template, see qvm_template.py for where it differs from Qubes'.
"""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from pillars import PILLARS, PROMISE
from snapshots import put_back

from qubes_vpn_formula.embedded import front
from qubes_vpn_formula.embedded.qubesd.method import writes

SOURCE = "debian-13-minimal"
TEMPLATE = {"name": "t-vpn", "clone_of": SOURCE, "guard": PROMISE}
INSTALLED = {"old": None, "new": f"{SOURCE}, downloaded by sys-firewall"}
CLONED = {"old": None, "new": f"clone of {SOURCE}"}
IN_CLEAR = (
    f"The download of {SOURCE} goes past the VPN, by sys-firewall -> sys-net: sys-firewall is "
    "dom0's updatevm."
)


@pytest.fixture
def bin_folder(tmp_path, monkeypatch):
    """A folder that comes first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def lock(loaders):
    """Where qvm-template locks."""
    return Path(loaders.opts["root_dir"]) / "run/qubes/qvm-template.lock"


@pytest.fixture
def qvm_template(bin_folder, lock, monkeypatch):
    """The stand-in on PATH, for repositories with the source."""
    path = os.pathsep.join([str(front.FOLDER), str(Path(front.__file__).parents[3])])
    program = bin_folder / "qvm-template"
    stand_in = Path(__file__).with_name("qvm_template.py")
    program.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} {stand_in} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("QVM_TEMPLATE_LOCK", str(lock))
    monkeypatch.setenv("QVM_TEMPLATE_HAS", SOURCE)


@pytest.fixture
def missing(embedded, qvm_template):
    """The source is not there."""
    embedded.call(SOURCE, "admin.vm.Remove")
    embedded.forget_calls()


def whole(embedded):
    """Whether both templates are there, with a system and all features, and nothing is noted."""
    qubes = embedded.snapshot()["qubes"]
    notes = [key for key in qubes["dom0"]["features"] if key.startswith("x-qubes-vpn-")]
    return notes == [] and all(
        qubes[name]["volumes"]["root"]["used"]
        and "template-description" in qubes[name]["features"]
        and qubes[name]["properties"].get("netvm") is None
        for name in ("t-vpn", SOURCE)
    )


def test_it_is_installed_and_a_dry_run_says_so(states, embedded, missing):
    dry = states.template(**TEMPLATE, test=True)
    assert embedded.writes() == []
    assert dry.comment == (
        f"there is no template {SOURCE}: it is installed, downloaded by sys-firewall\n"
        f"there is no t-vpn: it is made (clone of {SOURCE})\n{IN_CLEAR}"
    )
    real = states.template(**TEMPLATE)
    assert real.result is True
    assert real.changes == dry.changes == {"installed": INSTALLED, "clone": CLONED}
    assert real.comment == f"changed\n{IN_CLEAR}"
    assert whole(embedded)
    embedded.forget_calls()
    assert states.template(**TEMPLATE).changes == {}
    assert embedded.writes() == []


def test_both_default_templates_are_cloned_from_it(states, embedded, missing):
    """One download; what the run makes of the machine is what it makes where the source was."""
    done = states.run(PILLARS["dns"])
    assert all(state.result for state in done.values()), list(done.values())[-1]
    told = [step for step, state in done.items() if "installed" in state.changes]
    assert len(told) == 1
    assert whole(embedded)


def test_a_download_through_the_vpn_is_not_said_to_be_past_it(states, embedded, missing):
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-vpn label=orange")
    embedded.call("sys-vpn", "admin.vm.property.Set", "provides_network", b"True")
    embedded.call("sys-vpn", "admin.vm.property.Set", "netvm", b"sys-net")
    embedded.call("sys-firewall", "admin.vm.property.Set", "netvm", b"sys-vpn")
    assert "past the VPN" not in states.template(**TEMPLATE, test=True).comment


def test_a_source_is_not_installed_where_the_template_is_there(states, embedded, qvm_template):
    """Somebody may have removed it since."""
    assert states.template(**TEMPLATE).result is True
    embedded.call(SOURCE, "admin.vm.Remove")
    assert states.template(**TEMPLATE).changes == {}


def test_an_undo_removes_it_when_asked_to(states, embedded, missing):
    states.template(**TEMPLATE)
    states.undo()
    assert {"t-vpn", SOURCE} <= embedded.snapshot()["qubes"].keys()
    states.undo(remove=True)
    assert not {"t-vpn", SOURCE} & embedded.snapshot()["qubes"].keys()


# --- what is refused

UNKNOWN = (
    "template 'debian-99' could not be installed: qvm-template said: Template 'debian-99' not "
    "found."
)


def refused(states, embedded, **args):
    """The comment of a refused step, which left no note and no half template."""
    answer = states.template(**{**TEMPLATE, **args})
    assert (answer.result, answer.changes) == (False, {})
    qubes = embedded.snapshot()["qubes"]
    assert [key for key in qubes["dom0"]["features"] if key.startswith("x-qubes-vpn-")] == []
    assert "t-vpn" not in qubes
    return answer.comment.split("\n")[0]


def test_a_misspelt_name_is_what_qvm_template_says(states, embedded, missing):
    assert refused(states, embedded, clone_of="debian-99") == UNKNOWN


def test_a_failed_download_is_what_qvm_template_says(states, embedded, missing, monkeypatch):
    said = "[Qrexec] Curl error\x1b[31m (6)\nError: 'qubes-template-x' download failed."
    monkeypatch.setenv("QVM_TEMPLATE_FAILS", said)
    assert refused(states, embedded) == (
        f"template '{SOURCE}' could not be installed: qvm-template said: [Qrexec] Curl error[31m "
        "(6). Error: 'qubes-template-x' download failed."
    )
    monkeypatch.delenv("QVM_TEMPLATE_FAILS")
    assert states.template(**TEMPLATE).result is True


def test_a_file_is_not_installed(states, embedded, missing):
    assert "would take my.rpm for a file" in refused(states, embedded, clone_of="my.rpm")


def test_without_qvm_template_that_is_said(states, embedded, missing, bin_folder, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    dry = states.template(**TEMPLATE, test=True)
    assert (dry.result, dry.changes) == (False, {})
    assert refused(states, embedded) == dry.comment.split("\n")[0]
    assert dry.comment.split("\n")[0] == (
        f"template '{SOURCE}' could not be installed: there is no program qvm-template in dom0."
    )


@pytest.mark.parametrize("test", [True, False])
def test_nobody_to_download_it_is_refused(states, embedded, missing, test):
    fix = f"Name another one (qubes-prefs updatevm NAME), or install {SOURCE} yourself."
    embedded.call("sys-firewall", "admin.vm.property.Set", "netvm", b"")
    embedded.call("sys-firewall", "admin.vm.property.Set", "provides_network", b"True")
    embedded.call("dom0", "admin.property.Set", "updatevm", b"vault")
    embedded.forget_calls()
    assert states.template(**TEMPLATE, test=test).comment == (
        f"there is no template '{SOURCE}', and vault, dom0's updatevm, has no netvm. {fix}"
    )
    embedded.call("dom0", "admin.property.Set", "updatevm", b"")
    assert states.template(**TEMPLATE, test=test).comment == (
        f"there is no template '{SOURCE}', and no qube to download it: dom0 has no updatevm. {fix}"
    )


# --- interrupted


def calls_to_interrupt(states, embedded):
    """Numbers of the writes until the source is whole; the clone's are for test_killed.py."""
    start = embedded.path.read_bytes()
    states.template(**TEMPLATE)
    made = embedded.calls()
    put_back(embedded, start)
    (cloned,) = [
        number
        for number, call in enumerate(made, 1)
        if call.dest == "dom0" and call.method == "admin.vm.CreateInPool.TemplateVM"
    ]
    return [number for number, call in enumerate(made[:cloned], 1) if writes(call.method)]


def way_out(states, embedded, comment):
    """Does what a refusal says."""
    assert comment.startswith(
        f"an earlier run was interrupted while qvm-template installed '{SOURCE}'"
    )
    assert f"qvm-remove {SOURCE}" in comment
    if embedded.snapshot()["qubes"][SOURCE]["power"] != "Halted":
        embedded.call(SOURCE, "admin.vm.Kill")
    embedded.call(SOURCE, "admin.vm.Remove")
    return states.template(**TEMPLATE)


@pytest.mark.one_salt
@pytest.mark.timeout(300)
def test_killed_after_any_write_nothing_half_is_cloned(states, embedded, missing):
    """R92. Ours and qvm-template's. What has a system and is not whole is somebody's to judge."""
    start, outcomes = embedded.path.read_bytes(), []
    for number in calls_to_interrupt(states, embedded):
        put_back(embedded, start)
        embedded.fail(kill="after", at=number)
        code = states.state_in_child("template", **TEMPLATE)
        # Its own process was killed, or it says that qvm-template was.
        assert code in (1, -signal.SIGKILL), number
        again = states.template(**TEMPLATE)
        outcomes.append(again.result)
        if not again.result:
            again = way_out(states, embedded, again.comment)
        assert again.result is True, (number, again)
        assert whole(embedded), number
    assert set(outcomes) == {True, False}


def test_one_that_goes_on_without_us_is_waited_for(
    states, embedded, missing, tmp_path, monkeypatch
):
    """R92. The run is killed; qvm-template, a process of its own, is not."""
    waits = tmp_path / "waits"
    waits.touch()
    monkeypatch.setenv("QVM_TEMPLATE_WAITS", str(waits))
    child = os.fork()
    if child == 0:
        states.template(**TEMPLATE)
        os._exit(0)
    until(lambda: SOURCE in embedded.snapshot()["qubes"])
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    answer = states.template(**TEMPLATE)
    assert (answer.result, answer.changes) == (False, {})
    assert answer.comment.startswith("qvm-template, which an interrupted run left behind")
    waits.unlink()
    until(lambda: "template-description" in embedded.snapshot()["qubes"][SOURCE]["features"])
    until(lambda: not Path(os.environ["QVM_TEMPLATE_LOCK"]).exists())
    answer = states.template(**TEMPLATE)
    assert answer.changes == {
        f"{SOURCE}: left half made": {"old": "by an interrupted run", "new": "completed"},
        "clone": CLONED,
    }
    assert whole(embedded)


def until(true):
    """Waits for it, half a minute at most."""
    for _ in range(300):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come to that")


@pytest.mark.parametrize("ours", [signal.default_int_handler, signal.SIG_IGN])
def test_one_that_does_not_end_is_stopped(
    states, embedded, missing, tmp_path, monkeypatch, request, ours
):
    """And what it made goes with it: it is told as by Ctrl-C, also where ours is deaf to that."""
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, ours)))
    monkeypatch.setattr("qubes_vpn_qvm_template._PATIENCE", 3)
    waits = tmp_path / "waits"
    waits.touch()

    class Program(subprocess.Popen):
        """Time is over when it has come to where it waits, however long that takes here."""

        def wait(self, timeout=None):
            if timeout != 3:
                return super().wait(timeout)
            until(waits.with_suffix(".reached").exists)
            raise subprocess.TimeoutExpired(self.args, timeout)

    monkeypatch.setattr("qubes_vpn_program.subprocess.Popen", Program)
    monkeypatch.setenv("QVM_TEMPLATE_WAITS", str(waits))
    assert refused(states, embedded) == (
        f"template '{SOURCE}' could not be installed: qvm-template did not end within 3 seconds."
    )
    assert SOURCE not in embedded.snapshot()["qubes"]
