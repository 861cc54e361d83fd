# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of the stand-in for the Mullvad app, and where they belong in a qube."""

from pathlib import Path

_FOLDER = Path(__file__).parent / "mullvad_app"
#: Path in the qube -> file here; all of them are programs.
PROGRAMS = {
    "/usr/bin/mullvad": _FOLDER / "mullvad",
    "/usr/bin/mullvad-daemon": _FOLDER / "daemon",
    "/usr/lib/mullvad-app/commands.py": _FOLDER / "commands.py",
}
#: In place of systemctl, where there is no systemd.
SYSTEMCTL = _FOLDER / "systemctl"

_DAEMON = """[Unit]
After=mullvad-early-boot-blocking.service NetworkManager.service systemd-resolved.service
[Service]
ExecStart=/usr/bin/mullvad-daemon
[Install]
WantedBy=multi-user.target
"""
#: It writes down which settings it sees.
_EARLY = """[Unit]
DefaultDependencies=no
Before=basic.target mullvad-daemon.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'cat /etc/mullvad-vpn/settings.json >/run/early-boot; :'
[Install]
WantedBy=mullvad-daemon.service
"""
#: Its units, as the app's own are named, linked and ordered.
UNITS = {"mullvad-daemon": _DAEMON, "mullvad-early-boot-blocking": _EARLY}
