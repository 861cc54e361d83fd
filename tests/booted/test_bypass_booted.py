# SPDX-License-Identifier: GPL-2.0-or-later
"""A real systemd ends a bypass: in time, by either clock, until it is done (R05).

What systemd is told is what dom0's function tells it, but for shorter times.  `xl` and `qvm-kill`
are stand-ins, and it is Debian 13's systemd, not dom0's.
"""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from qubes_vpn_formula.embedded import front
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted

_NAME = "disp-portal"
_XL = f"""#!/bin/sh
[ ! -e /run/broken ] || exit 1
case $1 in
list) echo "Name ID"; [ ! -e /run/on ] || echo "{_NAME} 1 400" ;;
destroy) echo destroyed "$2" >>/run/done; rm -f /run/on ;;
esac
"""
_QVM_KILL = """#!/bin/sh
echo killed "$1" >>/run/done
[ -e /run/no-qubesd ] || rm -f /run/on
"""
_TOLD = f"""import json, qubes_vpn_bypass
told = []
qubes_vpn_bypass._systemd = told.append
qubes_vpn_bypass.is_armed = lambda: True
qubes_vpn_bypass._arm({_NAME!r}, "/var/lib/qubes-vpn", 1)
print(json.dumps(told))
"""
_UNIT = "qubes-vpn-bypass.service"


@pytest.fixture(scope="module")
def dom0(lab: Booted) -> AppVM:
    """What has systemd, xl and qvm-kill."""
    template = lab.template("t-dom0")
    template.write("/usr/bin/xl", _XL, 0o755)
    template.write("/usr/bin/qvm-kill", _QVM_KILL, 0o755)
    template.stop()
    qube = lab.appvm("dom0-like", template)
    qube.start()
    return qube


def armed(dom0: AppVM, boot: int, wall: int) -> int:
    """Has it armed, with times in seconds from now by the one clock and the other; exit code."""
    done = subprocess.run(
        [sys.executable, "-c", _TOLD],
        env={**os.environ, "PYTHONPATH": str(front.FOLDER)},
        capture_output=True,
        check=True,
    )
    stop, run = json.loads(done.stdout)
    ends = int(time.clock_gettime(time.CLOCK_BOOTTIME)) + boot, int(time.time()) + wall
    run[-1], found = re.subn(r"\(\d+, \d+\)(?=, '[^']*', '[^']*'\)\s*$)", repr(ends), run[-1])
    assert found == 1
    dom0.run(stop, check=False)
    dom0.run(": >/run/done; touch /run/on")
    return dom0.run(run, check=False).returncode


def state(dom0: AppVM) -> str:
    """What dom0's function asks for."""
    return dom0.run(
        ["systemctl", "show", "--property=ActiveState", "--value", _UNIT]
    ).stdout.strip()


def until_off(dom0: AppVM, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not dom0.exists("/run/on"):
            return True
        time.sleep(0.2)
    return False


@pytest.mark.parametrize(("boot", "wall"), [(6, 600), (600, 6)])
def test_either_clock_ends_it_also_when_systemd_reads_its_units_anew(dom0, boot, wall):
    assert armed(dom0, boot, wall) == 0
    dom0.run(["systemctl", "daemon-reload"])
    assert (dom0.exists("/run/on"), state(dom0)) == (True, "active")
    assert until_off(dom0, 15)
    assert dom0.read("/run/done") == f"killed {_NAME}\n"
    time.sleep(1)
    assert state(dom0) == "inactive"  # and is not started again: it has done its work


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_killed_it_is_started_again(dom0, signal):
    assert armed(dom0, 3, 600) == 0
    dom0.run(["systemctl", "daemon-reload"])
    dom0.run(["systemctl", "kill", f"--signal={signal}", _UNIT])
    time.sleep(1)
    assert state(dom0) == "activating"
    assert until_off(dom0, 15)


def test_stopped_it_ends_nothing(dom0):
    assert armed(dom0, 3, 3) == 0
    dom0.run(["systemctl", "stop", _UNIT])
    assert state(dom0) == "inactive"
    assert not until_off(dom0, 6)


def test_what_cannot_run_is_told_at_once(dom0):
    """Before anything is opened."""
    dom0.run("mv /usr/bin/python3 /usr/bin/python3-away")
    try:
        assert armed(dom0, 600, 600) != 0
    finally:
        dom0.run("mv /usr/bin/python3-away /usr/bin/python3")


def test_it_is_tried_until_it_is_done_and_nothing_new_is_armed_meanwhile(dom0):
    """Neither qubesd does it nor does Xen answer; then Xen does."""
    assert armed(dom0, 2, 600) == 0
    dom0.run("touch /run/broken /run/no-qubesd")
    assert not until_off(dom0, 9)
    assert dom0.read("/run/done").count("killed") >= 2
    assert state(dom0) in ("active", "activating")
    dom0.run("rm /run/broken")
    assert until_off(dom0, 15)
    assert dom0.read("/run/done").endswith(f"destroyed {_NAME}\n")
    dom0.run("rm /run/no-qubesd")


def test_there_is_one_at_a_time(dom0):
    """What would end another one is in the way of a new one until it is taken away."""
    assert armed(dom0, 600, 600) == 0
    run = ["systemd-run", "--quiet", f"--unit={_UNIT}", "true"]
    assert dom0.run(run, check=False).returncode != 0
    dom0.run(["systemctl", "stop", _UNIT])
