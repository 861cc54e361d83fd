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
