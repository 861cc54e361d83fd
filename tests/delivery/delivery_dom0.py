# SPDX-License-Identifier: GPL-2.0-or-later
"""The folders of a dom0 that an installer writes to, private, and what it calls, recorded.

tests/readme has a dom0 with real Salt, in which the installed formula is then run.
"""

import hashlib
import subprocess
from pathlib import Path

import pytest

from qubes_vpn_formula import install

_PLACES = "srv usr/local/bin var/cache var/lib"
_MOUNT = f'for one in {_PLACES}; do mount --bind "$0/$one" "/$one" || exit 97; done'
_QUBESCTL = """#!/bin/sh
# Also what Salt would have seen.
echo "$*" "$(ls /srv/salt/_utils 2>/dev/null | wc -l)" >>{log}
exit {code}
"""
#: Runs an installer that is killed before its write number {} + 1.
_KILLED = """
import os, sys
from pathlib import Path
sys.argv[:1] = []
left, real = {}, Path.replace
def replace(self, to):
    global left
    left -= 1
    return real(self, to) if left >= 0 else os._exit(9)
Path.replace = replace
exec(compile(open(sys.argv[0]).read(), 'install.py', 'exec'))
"""
#: Where the formula's parts are.
SALT = "srv/salt"
PILLAR = "srv/pillar/qubes_vpn/init.sls"
#: What a bundle puts before a pillar, so that Salt evaluates nothing in it.
DATA = "#!yaml\n"
COMMAND = "usr/local/bin/qubes-vpn"
MANIFEST = "var/lib/qubes-vpn-formula/installed"


class DeliveryDom0:
    """The places of a dom0 in *folder*; `programs` comes first in PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "programs"
        for made in (
            "srv/salt/qubes",
            "srv/pillar",
            "usr/local/bin",
            "var/cache/salt/minion/file_lists",
            "var/lib",
        ):
            (folder / made).mkdir(parents=True)
        self.programs.mkdir()
        self.salt(works=True)

    def salt(self, works: bool) -> None:
        """Whether `qubesctl` works from now on."""
        self.program("qubesctl", _QUBESCTL.format(log=self.folder / "asked", code=int(not works)))

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def asked(self) -> list[str]:
        """What `qubesctl` was asked for since the last time, and how many modules it saw."""
        log = self.folder / "asked"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def run(self, script: str, *words: object) -> subprocess.CompletedProcess[str]:
        """A shell script in here, with the words as `$1`..."""
        script = f'{_MOUNT}; PATH="$0/programs:$PATH"; {script}'
        command = ["unshare", "--mount", "sh", "-c", script, self.folder, *words]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode == 97 or "unshare failed" in done.stderr:
            pytest.skip(f"needs root, for a /srv of its own: {done.stderr.strip()}")
        return done

    def install(self, bundle: Path) -> subprocess.CompletedProcess[str]:
        """As in README.md."""
        return self.run('tar -xOf "$1" install.py | python3 -I - "$1"', bundle)

    def killed(self, left: int, bundle: Path) -> subprocess.CompletedProcess[str]:
        """As `install`, killed after *left* writes."""
        words = _KILLED.format(left), install.__file__, bundle
        return self.run('python3 -I -c "$1" "$2" "$3"', *words)

    def remove(self) -> subprocess.CompletedProcess[str]:
        return self.run("python3 -I /var/lib/qubes-vpn-formula/install.py --remove")

    def files(self) -> dict[str, str]:
        """Checksums of all files of /srv, /usr/local/bin and the manifest's folder, by name."""
        own = (self.folder / "var/lib/qubes-vpn-formula").rglob("*")
        commands = (self.folder / "usr/local/bin").iterdir()
        return {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in [*(self.folder / "srv").rglob("*"), *commands, *own]
            if path.is_file() and not path.is_symlink()
        }

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path
