# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes the tunnel of a VPN qube down for a test, so that it comes back whatever happens to dom0.

This file is sent to ``python3 -I -`` in that qube, with a call of :func:`main` below it.  Before
the tunnel goes, systemd is told to bring it up again by itself after so many seconds: then nobody
has to, after Ctrl-C, a crash or a dom0 that is gone.
"""

import json
import os
import subprocess

_UNIT = "qubes-vpn-test"
#: Seconds for a command; `tunnel up` waits a minute for the server.
_PATIENCE = 150
_TUNNEL, _APP = "/usr/lib/qubes-vpn/tunnel", "/usr/bin/mullvad"


def main(order):
    """Prints ``{"state": word}``.

    order: ``do``, ``interrupt`` or ``restore``; ``profile``, the one that is up, None for the
    Mullvad app; ``seconds``, after which it comes back by itself.  Words: ``down``, ``up``;
    ``busy``, another test is under way and nothing was done; ``unwatched``, systemd would not bring
    it back, and so it was not taken down; ``stuck``, it was tried and did not end well.
    """
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    up, down = [_TUNNEL, "up", order["profile"]], [_TUNNEL, "down"]
    if order["profile"] is None:
        up, down = [_APP, "connect"], [_APP, "disconnect"]
    if order["do"] == "restore":
        state = "up" if _run(up) else "stuck"
        if state == "up":
            _run(["systemctl", "stop", f"{_UNIT}.timer"])
    elif _run(["systemctl", "is-active", "--quiet", f"{_UNIT}.timer", f"{_UNIT}.service"]):
        state = "busy"
    elif not _run(_later(order["seconds"], up)):
        state = "unwatched"
    else:
        state = "down" if _run(down) else "stuck"
    print(json.dumps({"state": state}))


def _later(seconds, words):
    unit = ["--quiet", "--collect", f"--unit={_UNIT}", "--description=The tunnel, after a test"]
    timer = [f"--on-active={seconds}", "--timer-property=AccuracySec=1s"]
    # It goes on trying: the server may be out of reach just then.
    again = ["--property=Restart=on-failure", "--property=RestartSec=5"]
    return ["systemd-run", *unit, *timer, *again, *words]


def _run(words):
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
