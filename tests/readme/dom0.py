# SPDX-License-Identifier: GPL-2.0-or-later
"""A dom0 in which README.md's commands run as they are written.

It has a /srv, a /usr/local/bin, a /var/cache and a /var/lib of its own, by a private mount
namespace, an /etc over this machine's, a home folder, and stand-ins for Qubes' commands
(`dom0bin`). Salt and the Admin API's embedded Qubes are real; Salt gets the formula's modules only
as they are installed and synced. Other qubes that Salt works in are the lab's (`targets`).
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import qubes_vpn_formula
from qubes_vpn_formula.embedded import front
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.lab.booted.dom0 import MINION

STAND_INS = Path(__file__).resolve().parent / "dom0bin"
_PACKAGE = Path(qubes_vpn_formula.__file__).parent
_PLACES = "srv usr/local/bin var/cache var/lib"
#: dom0's qrexec policy is written below /etc, of which programs here need the rest.
_OVER_ETC = "lowerdir=/etc,upperdir=$1/etc-upper,workdir=$1/etc-work"
_MOUNT = (
    f'for one in {_PLACES}; do mount --bind "$1/$one" "/$one" || exit 1; done; '
    f'mount -t overlay etc -o "{_OVER_ETC}" /etc || exit 1'
)
_RUN = f'{_MOUNT}; cd "$1/home" && exec sh -c "$2"'


@dataclass(frozen=True)
class Ran:
    """What one command did. writes: its Admin API calls that change the machine, or may."""

    command: str
    code: int
    stdout: str
    stderr: str
    writes: int


class Dom0:
    """One dom0 whose /srv, /usr/local/bin, /var and home are folders of `folder`.

    qubes: the folder with the home folders of its qubes.
    """

    def __init__(self, folder: Path, qubes: Path) -> None:
        self.folder = folder
        # What Qubes' packages have put there.
        salt = ("srv/salt", "srv/pillar", "var/cache/salt/minion")
        for made in (
            "home",
            "etc",
            "etc-upper",
            "etc-work",
            "off",
            "usr/local/bin",
            "var/lib",
            *salt,
        ):
            (folder / made).mkdir(parents=True)
        self.machine = EmbeddedQubes(folder / "qubes.json")
        # The embedded Qubes away from the checkout, whose `_utils` it would make importable.
        package = folder / "lib" / _PACKAGE.name
        shutil.copytree(_PACKAGE, package)
        (folder / "etc/minion").write_text(yaml.safe_dump(self._minion()))
        python_path = [package.parent, sysconfig.get_path("purelib")]
        self._environ = front.environ(
            self.machine.path,
            {
                "HOME": str(folder / "home"),
                "PATH": f"{STAND_INS}:/usr/local/bin:{os.environ['PATH']}",
                "LANG": "C.UTF-8",
                "PYTHONPATH": os.pathsep.join(map(str, python_path)),
                "DOM0_CONFIG": str(folder / "etc"),
                "DOM0_PYTHON": sys.executable,
                "DOM0_QUBES": str(qubes),
                "DOM0_QUBES_OFF": str(folder / "off"),
                "DOM0_SALT_CALL": str(Path(sys.executable).with_name("salt-call")),
            },
        )

    def run(self, command: str) -> Ran:
        """Runs one line, as typed, in dom0's home folder."""
        self.machine.forget_calls()
        done = self._unshare(_RUN, command)
        writes = sum(call.write for call in self.machine.calls())
        return Ran(command, done.returncode, done.stdout, done.stderr, writes)

    def skip_without_namespaces(self) -> None:
        """Skips the test where /srv and /var cannot be replaced."""
        done = self._unshare(_MOUNT)
        if done.returncode:
            why = "needs root, for a /srv and a /var of its own"
            pytest.skip(f"{why}: {done.stderr.strip()}")

    def _unshare(self, script: str, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [shutil.which("unshare"), "--mount", "sh", "-c", script, "sh", self.folder, *words],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def _minion(self) -> dict:
        """dom0's configuration, with its caches where /var/cache is replaced.

        Sockets, keys and logs, of which nothing is tested, stay out of the machine's folders.
        """
        return {
            **MINION,
            "cachedir": "/var/cache/salt/minion",
            "extension_modules": "/var/cache/salt/minion/extmods",
            "qubes_vpn_folder": str(self.folder / "record"),
            "pki_dir": str(self.folder / "pki"),
            "sock_dir": str(self.folder / "sock"),
            "pidfile": str(self.folder / "minion.pid"),
            "log_file": str(self.folder / "log"),
        }
