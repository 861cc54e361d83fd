# SPDX-License-Identifier: GPL-2.0-or-later
"""Stand-ins for what dom0 has beside qubesd: systemd's commands, xl and qvm-kill.

They work on the embedded Qubes.  systemd-run keeps what it was told in DOM0_PROGRAMS/unit, and runs
nothing: `fire` of tests/salt/test_bypass.py does.  `xl` knows who is on, by the state file, with no
qubesd in between.  Where they differ: nothing waits here, a unit that fails is not started
again, and what `xl list` says beside names is always the same.  What is in DOM0_PROGRAMS/state is
the unit's state, else it is active.
"""

import json
import os
import sys
from pathlib import Path

FOLDER = Path(os.environ["DOM0_PROGRAMS"])
MACHINE = Path(os.environ["QUBES_VPN_EMBEDDED"])
UNIT = FOLDER / "unit"
STATE = FOLDER / "state"


def main(program, *words):
    with (FOLDER / "log").open("a") as log:
        log.write(f"{program} {' '.join(words[:2])}\n")
    if (FOLDER / f"no-{program}").exists():
        return 1
    return globals()[program.replace("-", "_")](*words)


def systemd_run(*words):
    if UNIT.exists():
        print("Failed to start transient service unit: Unit was already loaded.")
        return 1
    UNIT.write_text(json.dumps(words))
    return 0


def systemctl(verb, *words):
    unit = words[-1]
    assert unit == "qubes-vpn-bypass.service"
    if verb == "show":
        assert words[:-1] == ("--property=ActiveState", "--value")
        print((STATE.read_text() if STATE.exists() else "active") if UNIT.exists() else "inactive")
        return 0
    assert verb == "stop"
    if not UNIT.exists():
        return 5
    UNIT.unlink()
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
    return _called(name, "admin.vm.Kill")


def qvm_prefs(name, key):
    return _called(name, "admin.vm.property.Get", key)


def qvm_features(name, key):
    return _called(name, "admin.vm.feature.Get", key)


def _called(*call):
    from qubes_vpn_formula.embedded.machine import EmbeddedQubes  # slow, and not always needed

    try:
        answer = EmbeddedQubes(MACHINE).call(*call).decode()
    except Exception as error:
        print(error, file=sys.stderr)
        return 1
    print(answer.split(" ")[-1] if call[1] == "admin.vm.property.Get" else answer)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
