# SPDX-License-Identifier: GPL-2.0-or-later
"""Stand-ins for what dom0 has beside qubesd: systemd's commands, xl and qvm-kill.

They work on the embedded Qubes.  systemd-run keeps what it was told in DOM0_PROGRAMS/timer, and
does not wait: :func:`fire` of tests/salt/test_bypass.py runs it.  `xl` knows who is on, by the
state file, with no qubesd in between.  Where they differ: a timer has no time here, a unit
that fails is not started again, and what `xl list` says beside names is always the same.
"""

import json
import os
import sys
from pathlib import Path

FOLDER = Path(os.environ["DOM0_PROGRAMS"])
MACHINE = Path(os.environ["QUBES_VPN_EMBEDDED"])
TIMER = FOLDER / "timer"


def main(program, *words):
    with (FOLDER / "log").open("a") as log:
        log.write(f"{program} {' '.join(words[:2])}\n")
    if (FOLDER / f"no-{program}").exists():
        return 1
    return globals()[program.replace("-", "_")](*words)


def systemd_run(*words):
    if TIMER.exists():
        print("Failed to start transient timer unit: Unit was already loaded.")
        return 1
    TIMER.write_text(json.dumps(words))
    return 0


def systemctl(verb, *words):
    unit = words[-1]
    assert unit == "qubes-vpn-bypass.timer"
    if verb == "is-active":
        return 0 if TIMER.exists() else 3
    assert verb == "stop"
    if not TIMER.exists():
        return 5
    TIMER.unlink()
    return 0


def xl(verb, *words):
    qubes = json.loads(MACHINE.read_text())["state"]["qubes"]
    if verb == "list":
        print("Name                                        ID   Mem VCPUs\tState\tTime(s)")
        for name, qube in qubes.items():
            if qube["klass"] != "TemplateVM" and qube.get("power", "Running") != "Halted":
                print(f"{name:40} 1 400 2 -b---- 1.0")
        return 0
    assert (verb, len(words)) == ("destroy", 1)
    return qvm_kill(*words)


def qvm_kill(name):
    from qubes_vpn_formula.embedded.machine import EmbeddedQubes  # slow, and not always needed

    try:
        EmbeddedQubes(MACHINE).call(name, "admin.vm.Kill")
    except Exception as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
