# SPDX-License-Identifier: GPL-2.0-or-later
"""The notice on the desktop, with the programs that a template gets for it (R84).

The qube's user has an X server and a session bus, as by Qubes' GUI agent; notify-send and the
daemon that shows its notices are Debian's.
"""

import time

import pytest

from qubes_vpn_formula.lab import tunnelfiles
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_PACKAGES = ["libnotify-bin", "mate-notification-daemon", "xvfb", "x11-utils", "dbus", "python3"]
_SHOW = (
    "import sys; sys.path[:0] = ['/usr/lib/qubes-vpn']; import qubes_vpn_notice as n; n.show({})"
)

_WINDOWS = ["xwininfo", "-display", ":0", "-root", "-tree"]


@pytest.fixture(scope="module")
def qube(lab: Booted) -> AppVM:
    template = lab.template("t-notice")
    template.install(["--no-install-recommends", *_PACKAGES])
    for path, (text, mode) in tunnelfiles.files().items():
        template.write(path, text, mode)
    template.run("useradd --create-home user")
    template.stop()
    qube = lab.appvm("sys-vpn", template)
    qube.start()
    return qube


def test_a_notice_is_shown(qube):
    number = qube.run("id -u user").stdout.strip()
    folder = f"/run/user/{number}"
    bus = f"unix:path={folder}/bus"
    qube.run(["install", "-d", "-o", "user", "-m700", folder])
    # Without a session nothing can be shown, and that is no trouble.
    qube.run(["python3", "-c", _SHOW.format(True)])
    session = ["systemd-run", "--quiet", "--uid=user", "--setenv=DISPLAY=:0"]
    session.append(f"--setenv=XDG_RUNTIME_DIR={folder}")
    qube.run([*session, "Xvfb", ":0", "-nolisten", "tcp"])
    qube.run("until [ -S /tmp/.X11-unix/X0 ]; do sleep 0.05; done")
    qube.run([*session, "dbus-daemon", "--session", "--nofork", f"--address={bus}"])
    qube.run(f"until [ -S {folder}/bus ]; do sleep 0.05; done")
    for number, up in enumerate((True, False), 1):
        qube.run(["python3", "-c", _SHOW.format(up)])
        until = time.monotonic() + 20
        while (windows := qube.run(_WINDOWS).stdout).count('"Notification"') != number:
            assert time.monotonic() < until, windows
            time.sleep(0.2)
