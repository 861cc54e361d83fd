# SPDX-License-Identifier: GPL-2.0-or-later
"""A real systemd ends a bypass: in time, by either clock, until it is done (R05).

What systemd is told is what dom0's function tells it, but for shorter times.  `xl` and `qvm-kill`
are stand-ins, and it is Debian 13's systemd, not dom0's.
"""

import json
import os
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
qubes_vpn_bypass._arm({_NAME!r}, "/var/lib/qubes-vpn", 1)
print(json.dumps(told))
"""


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


def armed(dom0: AppVM, active: int, calendar: int) -> int:
    """Has it armed, with times in seconds from now by the one clock and the other; exit code."""
    done = subprocess.run(
        [sys.executable, "-c", _TOLD],
        env={**os.environ, "PYTHONPATH": str(front.FOLDER)},
        capture_output=True,
        check=True,
    )
    stop, run, look = json.loads(done.stdout)
    at = f"--on-calendar=@{int(time.time()) + calendar}"
    run = [f"--on-active={active}" if word == "--on-active=60" else word for word in run]
    run = [at if word.startswith("--on-calendar=@") else word for word in run]
    assert {at, f"--on-active={active}"} <= {*run}
    dom0.run(stop, check=False)
    dom0.run(": >/run/done; touch /run/on")
    if code := dom0.run(run, check=False).returncode:
        return code
    return dom0.run(look, check=False).returncode


def until_off(dom0: AppVM, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not dom0.exists("/run/on"):
            return True
        time.sleep(0.2)
    return False


@pytest.mark.parametrize(("active", "calendar"), [(6, 600), (600, 6)])
def test_either_clock_ends_it_also_when_systemd_reads_its_units_anew(dom0, active, calendar):
    assert armed(dom0, active, calendar) == 0
    dom0.run(["systemctl", "daemon-reload"])
    assert dom0.exists("/run/on")
    assert until_off(dom0, 15)
    assert dom0.read("/run/done") == f"killed {_NAME}\n"


def test_it_is_tried_until_it_is_done_and_nothing_new_is_armed_meanwhile(dom0):
    """Neither qubesd does it nor does Xen answer; then Xen does."""
    assert armed(dom0, 2, 600) == 0
    dom0.run("touch /run/broken /run/no-qubesd")
    assert not until_off(dom0, 9)
    assert dom0.read("/run/done").count("killed") >= 2
    assert armed(dom0, 600, 600) != 0
    dom0.run("rm /run/broken")
    assert until_off(dom0, 15)
    assert dom0.read("/run/done").endswith(f"destroyed {_NAME}\n")
    dom0.run("rm /run/no-qubesd")
