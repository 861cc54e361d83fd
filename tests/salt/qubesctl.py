# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in for Qubes' qubesctl: `qubesctl --skip-dom0 --targets=TEMPLATE state.sls SLS`.

By qubes-mgmt-salt 4.2.3, qubesctl and qubessalt/__init__.py: a target that is off is started and
shut down again, a target that is not there is left out, one line tells of each target, and the exit
code is the worst of theirs.  It differs in this: nothing is run in the template.  What would be is
downloaded if the template has a netvm whose list lets it, or QUBESCTL_PROXY is set; and there is no
disposable that manages it.

QUBESCTL_FAILS: the download fails in any case.  QUBESCTL_WAITS: with a netvm, it waits while there
is a file of this path.
"""

import os
import sys
import time
from pathlib import Path

import qubesadmin


def main():
    skip_dom0, targets, *command = sys.argv[1:]
    assert skip_dom0 == "--skip-dom0"
    assert command == ["state.sls", "qubes.network.sys-vpn"]
    app, worst = qubesadmin.Qubes(), 0
    for name in targets.removeprefix("--targets=").split(","):
        if name in app.domains:
            worst = max(worst, manage(app.domains[name]))
    return worst


def manage(vm):
    vm.start()
    allowed = [rule.rule for rule in vm.firewall.rules if rule.rule.startswith("action=accept")]
    online = vm.netvm is not None and len(allowed) == 3
    waits = os.environ.get("QUBESCTL_WAITS")
    while online and waits and Path(waits).exists():
        time.sleep(0.05)
    done = (online or "QUBESCTL_PROXY" in os.environ) and "QUBESCTL_FAILS" not in os.environ
    vm.shutdown()
    log = f"/var/log/qubes/mgmt-{vm.name}.log"
    print(f"{vm.name}: OK" if done else f"{vm.name}: ERROR (exit code 20, details in {log})")
    return 0 if done else 20


if __name__ == "__main__":
    sys.exit(main())
