# SPDX-License-Identifier: GPL-2.0-or-later
"""R90: a cell says "closed" only when it could have seen a leak; trouble is never a pass."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from qubes_vpn_formula.lab import matrix, senders
from qubes_vpn_formula.lab.agent.restated import Restated
from qubes_vpn_formula.lab.attacks import Attack
from qubes_vpn_formula.lab.killswitches import Absent
from qubes_vpn_formula.lab.machine import SERVER
from qubes_vpn_formula.lab.play import play


@pytest.fixture
def attacked(namespaces, tmp_path):
    """Runs a function as an attack on a qube without any killswitch."""

    def attacked(run, *counts):
        attack = Attack("T99", "made up", "Tests", counts or ("OUT",), run)
        return play(attack, Absent(), Restated(), tmp_path)

    return attacked


def test_a_leak_is_told_by_phase_and_nothing_else_is_one(attacked, tmp_path):
    def attack(cell):
        cell.start()
        through = cell.phase("through the tunnel")
        cell.send(cell.client, senders.udp(SERVER[4], 443, through))
        cell.route_to_uplink()
        out = cell.phase("past the tunnel")
        cell.send(cell.client, senders.udp(SERVER[4], 443, out))

    result = attacked(attack)
    assert (result.outcome, result.leaks, result.sent) == ("LEAK", 1, 2)
    assert result.lines[0].startswith("past the tunnel: sys-vpn's uplink: UDP from 10.137.0.")
    assert result.aside, "the kernel's own reports at the boot are seen, and no leak of this attack"
    assert [(tmp_path / name).stat().st_size > 100 for name in result.captures] == [True]


def test_a_leak_counts_though_the_attack_breaks_later(attacked):
    def attack(cell):
        cell.start()
        cell.route_to_uplink()
        cell.send(cell.client, senders.udp(SERVER[4], 443, cell.phase("out")))
        raise RuntimeError("a bug")

    result = attacked(attack)
    assert (result.outcome, result.leaks) == ("LEAK", 1)
    assert "RuntimeError: a bug" in "\n".join(result.lines)


def test_a_capture_that_went_blind_proves_nothing(attacked):
    def attack(cell):
        cell.start()
        cell.send(cell.client, senders.udp(SERVER[4], 443, cell.phase("through the tunnel")))
        # Only what runs in that qube can be seen from there.
        cell.lab.qubes["sys-firewall"].run("pkill tcpdump")

    result = attacked(attack)
    assert result.outcome == "error"
    assert "the control frame was not seen at the end" in result.lines[0]


def test_packets_without_a_way_prove_nothing(attacked):
    def attack(cell):
        cell.start()
        cell.vpn.run("ip rule flush; ip route flush table main")
        cell.salvo("own", "nowhere to go")

    result = attacked(attack)
    assert result.outcome == "error"
    assert "no way for" in result.lines[0]


def test_an_attack_that_sends_nothing_proves_nothing(attacked):
    assert attacked(lambda cell: cell.start()).lines[0] == "nothing was sent"


def test_a_bug_in_an_attack_is_an_error_of_its_cell(attacked):
    result = attacked(lambda cell: cell.no_such_thing)
    assert result.outcome == "error"
    assert "AttributeError" in result.lines[0]


def test_a_reason_not_to_run_is_given(attacked):
    result = attacked(lambda cell: cell.not_run("the kernel has no bridges"))
    assert (result.outcome, result.lines) == ("not run", ("the kernel has no bridges",))


def test_a_requirement_that_does_not_hold_is_a_failure(attacked):
    result = attacked(lambda cell: cell.require(1 > 2, "one is more than two"), "WORK")
    assert (result.outcome, result.lines) == ("FAILED", ("one is more than two",))


def test_a_worker_that_dies_loses_its_cell_and_no_other(namespaces, tmp_path):
    tasks = [matrix.Task("C01", "none"), matrix.Task("C01", "none")]
    results = matrix.run(tasks, matrix.Setting(tmp_path), jobs=1)
    before = set(multiprocessing.active_children())

    def kill():
        _until(lambda: list(tmp_path.rglob("*.pcap")))  # its cell has begun
        _kill(set(multiprocessing.active_children()) - before)

    first = _next_with(results, kill)
    assert (first.outcome, first.lines) == ("error", ("the worker ended with exit code -9",))
    assert next(results).outcome == "LEAK"
    assert list(results) == []


def test_ctrl_c_ends_all_and_reports_what_was_done(namespaces, tmp_path):
    chosen = ["--attack", "C01", "T01", "--killswitch", "none", "ours", "--jobs", "1"]
    chosen += ["--report", str(tmp_path / "report")]
    process = subprocess.Popen(
        [sys.executable, "-m", "qubes_vpn_formula", "lab", *chosen],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    captures = tmp_path / "report/captures"
    _until(lambda: captures.is_dir() and len(list(captures.iterdir())) > 1)
    started = _descendants(process.pid)
    assert "tcpdump" in {path.name for path in started.values()}
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "1 closed" in said or "1 LEAK" in said
    assert '"complete": false' in (tmp_path / "report/report.json").read_text("utf-8")
    _until(lambda: not started.items() & _programs(started).items())


def _descendants(pid):
    """The programs of a process' children and theirs, by process id."""
    found, waiting = [], [pid]
    while waiting:
        children = Path(f"/proc/{waiting.pop()}/task").glob("*/children")
        new = [int(one) for file in children for one in file.read_text().split()]
        found += new
        waiting += new
    return _programs(found)


def _programs(pids):
    """What processes run, of those that there are."""
    there = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            there[pid] = Path(f"/proc/{pid}/exe").readlink()
    return there


def _next_with(results, action):
    """The next result, with something done while its cell runs."""
    thread = threading.Thread(target=action)
    thread.start()
    try:
        return next(results)
    finally:
        thread.join()


def _kill(processes):
    for process in processes:
        process.kill()


def _until(holds, seconds=30):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.1)
