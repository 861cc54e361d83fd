# SPDX-License-Identifier: GPL-2.0-or-later
"""Real Salt for booted qubes: salt-ssh with a program in place of ssh, as in a management qube.

As in Qubes the master renders SLS with the pillar of that target alone, ships Salt itself ("thin")
and the formula's modules, calls functions of an SLS in the target, and wipes it all at the end
(`-w`).  Not as with qubesctl: dom0 copies nothing and starts no management qube, no qrexec policy
is asked, and the pillar is given here instead of rendered in dom0.

Salt is this environment's.  On Python 3.13, which the qubes have, 3007.13 finds no file of its own
without a patch that Qubes' package has too (saltstack/salt issue 66898); so it gets one.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

import salt
from qubes_vpn_formula.lab.booted.machine import Guest, Template
from qubes_vpn_formula.lab.qube import NAMESPACES
from qubes_vpn_formula.masterless import Applied, salt_program
from qubes_vpn_formula.paths import formula_root

SLS = "qubes.network.sys-vpn"
_MODULES = ("_modules", "_states", "_utils")
_ENTER = " ".join(f"--{namespace}" for namespace in NAMESPACES)
#: salt-ssh looks for scp in the target too, as if it were to be used there.
_PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin:/run/salt-shim-sandbox"
_SCP = "mkdir -p /run/salt-shim-sandbox; ln -sf /bin/true /run/salt-shim-sandbox/scp"
_SSH = f"""#!/bin/sh
[ "$1" != -V ] || exec echo OpenSSH_9.2p1 >&2
for text; do :; done
read -r pid <"${{0%/*}}/$1"
exec nsenter --target="$pid" {_ENTER} -- env -i {_PATH} HOME=/root LANG=C.UTF-8 sh -c "$text"
"""
_COPY = f"""#!/bin/sh
for text; do from=$to to=$text; done
read -r pid <"${{0%/*}}/${{to%%:*}}"
exec nsenter --target="$pid" {_ENTER} -- sh -c 'cat >"$0"' "${{to#*:}}" <"$from"
"""
#: What later versions of Salt do: a URL's own form does not depend on Python's.
_CREATE = """

def create(path, saltenv=None):
    path = salt.utils.data.decode(path.replace("\\\\", "/"))
    return "salt://" + path + (f"?saltenv={saltenv}" if saltenv else "")
"""


def _patched(folder: Path) -> None:
    """Put this environment's Salt into a folder, with `salt.utils.url` right for Python 3.13."""
    source, target = Path(salt.__file__).parent, folder / "salt"
    target.mkdir(parents=True)
    for entry in source.iterdir():
        if entry.is_dir() and entry.name != "utils":
            (target / entry.name).symlink_to(entry)
        elif entry.is_dir():
            shutil.copytree(entry, target / entry.name, ignore=shutil.ignore_patterns("*.pyc"))
        else:
            shutil.copy(entry, target)
    url = target / "utils/url.py"
    url.write_text(url.read_text("utf-8") + _CREATE, encoding="utf-8")


class Salt:
    """A master in a folder.  Raises FileNotFoundError when there is no Salt.

    log_level: of what it prints to standard error.
    """

    def __init__(self, folder: Path, log_level: str = "error") -> None:
        self._folder, self._log_level = folder, log_level
        self._programs, self._patched = folder / "programs", folder / "patched"
        _patched(self._patched)
        states, pillar = folder / "states", folder / "pillar"
        for path in (self._programs, states, pillar):
            path.mkdir(parents=True)
        for name in _MODULES:
            (states / name).symlink_to(formula_root() / name)
        (states / "qubes").symlink_to(formula_root() / "salt/qubes")
        (pillar / "top.sls").write_text("base: {'*': [qubes_vpn]}\n")
        for name, text in (("ssh", _SSH), ("scp", _COPY), ("ssh-keygen", "#!/bin/sh\n")):
            (self._programs / name).write_text(text)
            (self._programs / name).chmod(0o755)
        master = {
            "root_dir": str(folder),
            "file_roots": {"base": [str(states)]},
            "pillar_roots": {"base": [str(pillar)]},
            "roster_file": str(folder / "roster"),
            "verify_env": False,
        }
        (folder / "master").write_text(yaml.safe_dump(master))

    def apply(self, qube: Guest, document: Any, test: bool = False, sls: str = SLS) -> Applied:
        """`state.sls`, with the pillar `qubes_vpn`; a template runs for that."""
        self.give(document)
        done = self.call(qube, "state.sls", sls, f"test={test}")
        return Applied.read(done, qube.name)

    def give(self, document: Any) -> None:
        """The pillar `qubes_vpn` of the calls to come."""
        (self._folder / "pillar/qubes_vpn.sls").write_text(
            yaml.safe_dump({"qubes_vpn": document}), encoding="utf-8"
        )

    def call(self, qube: Guest, *words: str) -> subprocess.CompletedProcess[str]:
        """`salt-ssh -w QUBE WORDS`, its answer as JSON."""
        if isinstance(qube, Template) and not qube.running:
            qube.start()
        qube.run(_SCP)
        (self._programs / qube.name).write_text(f"{qube.pid}\n")
        roster = {qube.name: {"host": qube.name}}
        (self._folder / "roster").write_text(yaml.safe_dump(roster))
        path = os.pathsep.join([str(self._programs), os.environ["PATH"]])
        options = [f"--config-dir={self._folder}", "--out=json", "-w"]
        options.append(f"--log-level={self._log_level}")
        return subprocess.run(
            [salt_program("salt-ssh"), *options, qube.name, *words],
            env={**os.environ, "PATH": path, "PYTHONPATH": str(self._patched)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
