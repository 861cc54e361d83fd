# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests for a real dom0, here on an embedded Qubes: they pass, fail, refuse and tidy up (R87).

What they show of a real Qubes only its user can see.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from readme.document import Document

from qubes_vpn_formula.embedded import dom0, front
from qubes_vpn_formula.embedded.machine import EmbeddedQubes

TESTS = Path(__file__).with_name("dom0_tests.py")
OURS = "qubes-vpn-test-"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the tests are for root")


class Machine:
    """An embedded Qubes with dom0's files, and the tests as its user runs them."""

    def __init__(self, folder, release="4.3"):
        self.qubes = EmbeddedQubes(folder / "state.json", release)
        self.report = folder / "report.json"
        self.environ = front.environ(self.qubes.path, {"PATH": os.environ["PATH"]})

    def start(self, *words, **environ):
        return subprocess.Popen(
            [sys.executable, TESTS, f"--root={dom0.FRESH}", *words],
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words, **environ):
        """``(exit code, what it said)``."""
        child = self.start(*words, **environ)
        said = child.communicate(timeout=120)[0]
        return child.returncode, said

    def results(self):
        """``{test: result}`` of the report."""
        rows = json.loads(self.report.read_text())["tests"]
        return {row["test"]: row["result"] for row in rows}

    def others(self):
        """All that is not ours: nothing of it may change."""
        found = self.qubes.snapshot()
        qubes = {name: qube for name, qube in found["qubes"].items() if not _is_ours(name)}
        return found["globals"], qubes

    def ours(self):
        found = self.qubes.snapshot()
        return [name for name in found["qubes"] if _is_ours(name)]

    def writes(self):
        return [call for call in self.qubes.calls() if call.write]


def _is_ours(name):
    return name.startswith(OURS)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def qrexec(tmp_path):
    """What is in every qube: `id` answers, nothing else is there."""
    program = tmp_path / "qrexec"
    program.write_text(
        '#!/bin/sh\ncase "$2" in qubes.VMExec+id) echo "uid=0(root)";; *) exit 127;; esac\n'
    )
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("release", ["4.3", "4.2"])
def test_all_pass_and_nothing_stays(tmp_path, qrexec, release):
    machine = Machine(tmp_path, release)
    before = machine.others()
    words = ("--really", "--start", "--report", str(machine.report))
    code, said = machine.run(*words, QUBES_VPN_QREXEC=str(qrexec))
    assert code == 0, said
    assert {*machine.results().values()} == {"passed"}, said
    assert len(machine.results()) == 21
    assert machine.others() == before
    assert machine.ours() == []


def test_what_the_document_says_works(machine, checkout, qrexec, tmp_path, monkeypatch):
    """docs/dom0-tests.md; how the file comes to dom0 is the README's way."""
    monkeypatch.chdir(tmp_path)
    lines = Document((checkout / "docs/dom0-tests.md").read_text()).commands("Run them")
    copy, *runs = map(shlex.split, lines)
    assert copy[:3] == ["qvm-run", "--pass-io", "dev"]
    assert copy[3:] == ["cat qubes-vpn-formula/tests/dom0/dom0_tests.py", ">", "dom0_tests.py"]
    assert len(runs) == 2
    for words in runs:
        assert words[:3] == ["sudo", "python3", "dom0_tests.py"]
        code, said = machine.run(*words[3:], QUBES_VPN_QREXEC=str(qrexec))
        assert code == 0, said
    assert "passed" in (tmp_path / "dom0-report.json").read_text()


def test_the_report_says_nothing_of_the_machine(machine):
    """Also of what failed: names of qubes are in the errors' texts, and not in it."""
    machine.qubes.fail(method="admin.vm.firewall.Set", error="QubesException")
    code, said = machine.run("--really", "--report", str(machine.report))
    assert code == 1, said
    assert "failed" in machine.results().values() or "error" in machine.results().values()
    text = machine.report.read_text()
    names = {*machine.qubes.snapshot()["qubes"]}
    assert "personal" in names
    assert [name for name in names - {"dom0"} if re.search(rf"\b{re.escape(name)}\b", text)] == []
    assert not any(word in text for word in ("10.137", "10.138", "192.0.2", "uuid", str(os.sep)))
    assert text.isascii()
    # A report that is there is not overwritten.
    assert machine.run("--really", "--report", str(machine.report))[0] != 0
    assert machine.report.read_text() == text


@pytest.mark.parametrize("words", [[], ["--start"], ["--report=x"]])
def test_nothing_is_done_that_was_not_asked_for(machine, words):
    code, said = machine.run(*words)
    assert (code, "nothing is done without --really" in said) == (2, True), said
    assert machine.writes() == []


def test_names_that_are_there_are_refused(machine):
    machine.qubes.call(
        "dom0", "admin.vm.Create.AppVM", "fedora-42-xfce", f"name={OURS}mine label=red".encode()
    )
    machine.qubes.forget_calls()
    code, said = machine.run("--really")
    assert (code, "--clean" in said) == (1, True), said
    assert machine.writes() == []
    # It is none of theirs, so nor does --clean take it.
    machine.run("--clean")
    assert machine.ours() == [f"{OURS}mine"]


def test_what_is_no_dom0_is_told(machine):
    machine.environ["PYTHONPATH"] = ""
    code, said = machine.run("--really")
    assert (code, said.startswith("dom0_tests: this is no dom0")) == (1, True), said


@pytest.mark.parametrize("at", [3, 20, 35])
def test_killed_it_is_cleaned_by_hand(machine, at):
    before = machine.others()
    machine.qubes.fail(write=True, at=at, kill="after")
    assert machine.run("--really")[0] == -signal.SIGKILL
    code, said = machine.run("--really")
    assert (code, "--clean" in said) == (1, True) or machine.ours() == [], said
    assert machine.run("--clean")[0] == 0
    assert (machine.ours(), machine.others()) == ([], before)
    assert machine.run("--really")[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_tidies_up(machine, tmp_path, number):
    before = machine.others()
    asked, program = tmp_path / "asked", tmp_path / "hung"
    program.write_text(f"#!/bin/sh\ntouch {asked}\nexec sleep 1000\n")
    program.chmod(0o755)
    child = machine.start("--really", "--start", QUBES_VPN_QREXEC=str(program))
    until = time.monotonic() + 60
    while not asked.exists():
        assert time.monotonic() < until, child.poll()
        time.sleep(0.05)
    assert machine.ours()
    child.send_signal(number)
    said = child.communicate(timeout=60)[0]
    assert child.returncode == 1, said
    assert (machine.ours(), machine.others()) == ([], before), said


#: A fault in the formula -> its file, what stands there, what instead, who finds it first.
FAULTS = {
    "a dry run that writes": (
        "qubes_vpn_machine.py",
        '        if self.dry:\n            self._pretended[name, "rules"] = wanted\n        else:',
        "        if True:",
        "test_1",
    ),
    "a list that is written in part": (
        "qubes_vpn_machine.py",
        "save_rules(new)",
        "save_rules(new[:1])",
        "test_2",
    ),
    "a move that nobody guards": (
        "qubes_vpn_guard.py",
        "def opened(before, after, guard, unlisted=()):\n",
        "def opened(before, after, guard, unlisted=()):\n    return []\n",
        "test_5",
    ),
    "an undo that undoes nothing": (
        "qubes_vpn_restore.py",
        "    klass = machine.klass(name)\n    if klass ==",
        "    return None\n    klass = machine.klass(name)\n    if klass ==",
        "test_6",
    ),
    "somebody else's qube": (
        "qubes_vpn_dom0.py",
        '    need(machine, name)\n    if "template" in settings',
        '    machine.app.domains["personal"].netvm = None\n'
        '    need(machine, name)\n    if "template" in settings',
        "test_1",
    ),
    "a second run that writes": (
        "qubes_vpn_machine.py",
        "        if self.has_rules(name, rules):\n            return\n",
        "",
        "test_3",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(machine, checkout, tmp_path, name):
    """Each by the test that is for it, perhaps with others after it; no other qube is changed."""
    file, there, instead, test = FAULTS[name]
    utils = tmp_path / "utils"
    shutil.copytree(checkout / "_utils", utils, ignore=shutil.ignore_patterns("__pycache__"))
    text = (utils / file).read_text()
    assert there in text, file
    (utils / file).write_text(text.replace(there, instead))
    before = machine.others()
    code, said = machine.run("--really", f"--utils={utils}", "--report", str(machine.report))
    assert code == 1, said
    found = (name for name, result in machine.results().items() if result != "passed")
    assert next(found).startswith(f"Dom0Part.{test}"), said
    assert (machine.ours(), machine.others()) == ([], before)


@pytest.mark.parametrize(("name", "netvm"), [("work", b"sys-firewall"), ("other", b"")])
def test_a_qube_of_the_users_own_is_not_cleaned_away(machine, name, netvm):
    """By a name that a killed run may have left, too."""
    name = OURS + name
    machine.qubes.call("dom0", "admin.vm.Create.AppVM", "", f"name={name} label=red".encode())
    machine.qubes.call(name, "admin.vm.property.Set", "netvm", netvm)
    code, said = machine.run("--clean")
    assert code == 1
    assert f"{name} is not of these tests" in said
    assert "Traceback" not in said
    assert machine.ours() == [name]


def test_a_report_that_is_there_stays(machine):
    machine.report.write_text("mine")
    code, said = machine.run("--really", "--report", str(machine.report))
    assert (code, machine.report.read_text()) == (1, "mine")
    assert said == f"dom0_tests: {machine.report}: File exists. Name a new file.\n"
    assert machine.writes() == []
