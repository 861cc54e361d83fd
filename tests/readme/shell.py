# SPDX-License-Identifier: GPL-2.0-or-later
"""One command line, as a user types it."""

import os
import shlex
import subprocess
from pathlib import Path


def sh(command: str, folder: Path) -> subprocess.CompletedProcess:
    """Runs it in `folder`, without what a `make` that runs these tests put into the environment."""
    of_make = ("MAKE", "MFLAGS")
    return subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith(of_make)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def in_vpn_qube(command: str, home: Path, typed: str = "") -> Path:
    """Runs it with a stand-in for sudo, and with an /rw beside *home*; returns `credentials/`."""
    rw = home.parent / "rw"
    setup = f'sudo() {{ "$@"; }}; HOME={shlex.quote(str(home))}; '
    command = command.replace("/rw/", f"{rw}/")
    done = sh(f"{setup} printf '%s' {shlex.quote(typed)} | {{ {command}; }}", home)
    assert (done.returncode, done.stderr) == (0, "")
    return rw / "config/vpn/credentials"
