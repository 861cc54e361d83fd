# SPDX-License-Identifier: GPL-2.0-or-later
"""Ends a bypass when its time is over: dom0's systemd runs the text of this file.

It needs neither Salt nor the formula nor, if it comes to that, a qubesd that works: what does not
end by Qubes' own command is destroyed by Xen's.  It succeeds only when Xen has been seen to have no
such qube; until then systemd starts it again and again (:mod:`qubes_vpn_bypass`).
"""

import os
import subprocess
import sys

#: Seconds for a command.
_PATIENCE = 30


def main(name, folder, code):
    """Ends the qube *name*, and exits with 1 as long as it may be on.

    folder: of the record, for one line about it.  code: where the formula's modules are.
    """
    os.environ["PATH"] = os.environ.get("PATH") or "/usr/sbin:/usr/bin:/sbin:/bin"
    was_on = is_on(name)
    if was_on is not False:
        _run(["qvm-kill", name])
        if is_on(name) is not False:
            _run(["xl", "destroy", name])
    if is_on(name) is not False:
        sys.exit(1)
    if was_on:
        _record(name, folder, code)


def is_on(name):
    """Whether Xen has a qube of that name; None: not known."""
    listed = _run(["xl", "list"])
    if listed is None:
        return None
    header, *lines = listed.splitlines() or [""]
    if not header.startswith("Name"):
        return None
    return name in [line.split(" ")[0] for line in lines]


def _run(words):
    """What a command prints; None when it fails or takes too long."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("ascii", "replace") if done.returncode == 0 else None


def _record(name, folder, code):
    """It is over in any case: a record that cannot be written is told of elsewhere."""
    sys.path.insert(0, code)
    try:
        import qubes_vpn_record

        qubes_vpn_record.Record(folder).event("bypass closed", name, "timer")
    except Exception as error:  # whatever it was
        print(f"not recorded: {error}")
