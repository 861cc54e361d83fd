# SPDX-License-Identifier: GPL-2.0-or-later
"""A notice on the desktop that the tunnel came up or went down (R84).

The way is that of Qubes' own programs (core-agent-linux ``qubesagent/firewall.py``): notify-send in
the session of the qube's user.  Where there is no session or no notify-send, nothing is shown.
"""

import pwd
import subprocess
from pathlib import Path

from qubes_vpn_nft import ENVIRON, Failed, run

#: Seconds between two notices, so that a line that flaps does not fill the screen.
APART = 30
#: Seconds for a session that does not answer.
_PATIENCE = 5

_TEXTS = {
    True: ("network-transmit-receive", "The VPN tunnel is up."),
    False: ("network-offline", "The VPN tunnel is down. Clients are offline until it is back."),
}


class Notices:
    """Says what is new, at most every :data:`APART` seconds, and then what holds by then."""

    def __init__(self, say=None):
        self._say = say or show
        self._told, self._at = False, float("-inf")

    def note(self, up, now):
        """To be called again and again.  up: whether the tunnel is up.  now: seconds."""
        if up != self._told and now - self._at >= APART:
            self._told, self._at = up, now
            self._say(up)


def show(up):
    """Shows the notice, if it can be shown."""
    icon, text = _TEXTS[up]
    try:
        user = pwd.getpwnam(_user())
        session = Path(f"/run/user/{user.pw_uid}/bus")
        if session.exists():
            environment = ["DISPLAY=:0", f"DBUS_SESSION_BUS_ADDRESS=unix:path={session}"]
            send = ["notify-send", "--expire-time=8000", f"--icon={icon}", text]
            argv = ["runuser", "-u", user.pw_name, "--", "env", *environment, *send]
            # As the user, who can make it say what he likes: nobody listens.
            subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENVIRON,
                timeout=_PATIENCE,
                check=False,
            )
    except (KeyError, OSError, subprocess.TimeoutExpired):
        return


def _user():
    try:
        return run("qubesdb-read", "/default-user").strip() or "user"
    except Failed:
        return "user"
