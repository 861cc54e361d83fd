# SPDX-License-Identifier: GPL-2.0-or-later
"""Ends a bypass when its time is over: dom0's systemd runs the text of this file, from its opening.

It needs neither Salt nor the formula nor, if it comes to that, a qubesd that works: what does not
end by Qubes' own command is destroyed by Xen's.  It succeeds only when Xen has been seen to have no
such qube, or qubesd has said that the name is another qube's; until then systemd starts it again
and again (:mod:`qubes_vpn_bypass`).
"""

import os
import re
import socket
import subprocess
import sys
import time

#: Seconds for a command.
_PATIENCE = 30
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def main(name, note, until, folder, code):
    """Waits, ends the qube *name*, and exits with 1 as long as it may be on.

    note: dom0's feature that says which one it is.  until: two times of which the first counts, in
    seconds: by the clock that goes on while the machine sleeps and nobody can set, and by the
    wall's.  folder: of the record, for one line about it.  code: where the formula's modules are.
    """
    os.environ["PATH"] = os.environ.get("PATH") or "/usr/sbin:/usr/bin:/sbin:/bin"
    _ready()
    while _time_left(*until) > 0:
        time.sleep(1)
    was_on = is_on(name)
    if was_on is not False:
        if _is_another(name, note):
            return
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


def _ready():
    """Tells systemd that this is a program that runs: before it has, nothing is opened."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        if address.startswith("@"):
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_systemd:
            to_systemd.sendto(b"READY=1", address)


def _time_left(boot, wall):
    """Seconds."""
    return min(boot - time.clock_gettime(time.CLOCK_BOOTTIME), wall - time.time())


def _is_another(name, note):
    """Whether ours is gone for certain, and the name is another qube's; in doubt it is ours."""
    noted, now = (
        (_run(words) or "").split(" ")[0].strip()
        for words in (["qvm-features", "dom0", note], ["qvm-prefs", name, "uuid"])
    )
    return bool(_UUID.fullmatch(noted) and _UUID.fullmatch(now) and noted != now)


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
