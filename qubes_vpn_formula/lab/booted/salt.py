# SPDX-License-Identifier: GPL-2.0-or-later
"""qubesctl in the booted lab: dom0, a management qube, and real salt-ssh into a qube that runs.

For each target dom0 renders its pillar and copies its /srv (:meth:`Dom0.copy`) to a management
qube, which is made for that and has no network.  There salt-ssh ships Salt itself ("thin") and the
formula's modules, through qrexec in place of ssh (`connector`), runs functions of an SLS in the
target, and wipes it all at the end (`-w`).  Restated from qubes-mgmt-salt 4.2.3
(`qubessalt/__init__.py`, `qubes.SaltLinuxVM`); what differs: docs/decisions/0030.

Salt is this environment's.  On Python 3.13, which the qubes have, 3007.13 finds no file of its own
without a patch that Qubes' package has too (saltstack/salt issue 66898); so it gets one.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import salt
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.lab import qrexec
from qubes_vpn_formula.lab.booted.dom0 import Dom0, salt_words, with_srv
from qubes_vpn_formula.lab.booted.machine import Guest, Template
from qubes_vpn_formula.masterless import Applied

SLS = "qubes.network.sys-vpn"
_CONNECTOR = Path(__file__).with_name("connector")
#: What later versions of Salt do: a URL's own form does not depend on Python's.
_CREATE = """

def create(path, saltenv=None):
    path = salt.utils.data.decode(path.replace("\\\\", "/"))
    return "salt://" + path + (f"?saltenv={saltenv}" if saltenv else "")
"""


class Told(NamedTuple):
    """What qubesctl says of a target: its line, the exit code, and what Salt printed there."""

    line: str
    code: int
    done: subprocess.CompletedProcess[str]


class Salt:
    """dom0 with the formula, in a folder.  Raises FileNotFoundError when there is no Salt.

    log_level: of what salt-ssh prints.  qubes: dom0's machine; None is a fresh one.
    """

    def __init__(
        self, folder: Path, log_level: str = "error", qubes: EmbeddedQubes | None = None
    ) -> None:
        self._folder, self._log_level = folder, log_level
        self._thin = folder / "thin"
        self._thin.mkdir(parents=True)
        _patched(folder / "salt")
        self.dom0 = Dom0(folder / "dom0", folder / "salt", qubes)

    def apply(self, qube: Guest, document: Any, test: bool = False, sls: str = SLS) -> Applied:
        """`state.sls`, with the pillar `qubes_vpn`; a template runs for that."""
        self.give(document)
        done = self.call(qube, "state.sls", sls, f"test={test}")
        return Applied.read(done, qube.name)

    def give(self, document: Any, qubes: list[str] | None = None) -> None:
        """The pillar `qubes_vpn` of the calls to come; qubes: whose, None is everybody's."""
        self.dom0.pillar("qubes_vpn", {"qubes_vpn": document}, qubes)

    def call(self, qube: Guest, *words: str) -> subprocess.CompletedProcess[str]:
        """qubesctl's part for one target that stays on, with Salt's answer as JSON."""
        if isinstance(qube, Template) and not qube.running:
            qube.start()
        return self._managed(qube, [*words, "--out=json"])

    def qubesctl(
        self, *words: str, targets: Iterable[Guest] = (), skip_dom0: bool = False
    ) -> dict[str, Told]:
        """`qubesctl --targets=... WORDS`: dom0 first, then templates, then the others.

        By name, what each said.  Four at once; a target that is off is started, and shut down
        again; one that dom0 does not know is passed over.  When dom0 fails there is nothing else.
        """
        told = {}
        if not skip_dom0:
            done = self.dom0.qubesctl(*words)
            told["dom0"] = Told("", done.returncode, done)
            if done.returncode:
                return told
        known = self.dom0.domains()
        wanted = [qube for qube in targets if qube.name in known]
        templates = [qube for qube in wanted if isinstance(qube, Template)]
        for group in (templates, [qube for qube in wanted if qube not in templates]):
            with ThreadPoolExecutor(4) as pool:
                told |= pool.map(lambda qube: (qube.name, self._target(qube, words)), group)
        return told

    def _target(self, qube: Guest, words: tuple[str, ...]) -> Told:
        was_on = qube.running
        if not was_on:
            qube.start()
        if not self.dom0.domains()[qube.name]:
            self.dom0.qubes.call(qube.name, "admin.vm.Start")
        done = self._managed(qube, list(words))
        if not was_on:
            self.dom0.qubes.call(qube.name, "admin.vm.Shutdown")
            qube.stop()
        return _told(qube.name, words, done)

    def management(self, name: str) -> Path:
        """The folder of the management qube of a target, as its last call left it."""
        return self._folder / f"disp-mgmt-{name}"

    def _managed(self, qube: Guest, words: list[str]) -> subprocess.CompletedProcess[str]:
        """`salt-ssh -w QUBE WORDS` in a management qube that is new."""
        place = self.management(qube.name)
        shutil.rmtree(place, ignore_errors=True)
        srv, etc = self.dom0.copy(qube.name, place), place / "etc/salt"
        etc.mkdir(parents=True)
        master = yaml.safe_load((srv / "master").read_text())
        (srv / "master").unlink()
        master |= {"verify_env": False, "root_dir": str(place)}
        (etc / "master").write_text(yaml.safe_dump(master))
        (etc / "roster").write_text(yaml.safe_dump({qube.name: {"host": qube.name}}))
        cache = place / "var/cache/salt/master"
        cache.mkdir(parents=True)
        # Salt itself: for each management qube anew in Qubes, which takes ten seconds.
        (cache / "thin").symlink_to(self._thin)
        if (srv / "_extmods").exists():
            (srv / "_extmods").rename(cache / "extmods")
        tops = sorted(
            path.relative_to(srv / "salt") for path in (srv / "salt/_tops").rglob("*.top")
        )
        (srv / "salt/tops.yaml").write_text("".join(f"- {top}\n" for top in tops))
        programs = _programs(place / "bin", qube)
        options = [f"--config-dir={etc}", f"--roster-file={etc / 'roster'}", "-w"]
        options.append(f"--log-level={self._log_level}")
        environ = {name: text for name, text in self.dom0.environ.items() if "QUBES" not in name}
        environ["PATH"] = os.pathsep.join([str(programs), environ["PATH"]])
        command = [*salt_words("salt-ssh"), *options, qube.name, *words]
        done = with_srv(srv, command, environ, "--net")
        done.stdout, done.stderr = _printable(done.stdout), _printable(done.stderr)
        return done


def _programs(folder: Path, qube: Guest) -> Path:
    """ssh and its like, which reach that one qube, as dom0's policy says."""
    folder.mkdir()
    client = qrexec.client(folder, {qube.name: qube})
    client.rename(folder / "qrexec-client-vm")
    for name in ("ssh", "scp"):
        (folder / name).symlink_to(_CONNECTOR)
    # Nobody looks at the key.
    (folder / "ssh-keygen").write_text("#!/bin/sh\n")
    (folder / "ssh-keygen").chmod(0o755)
    return folder


def _told(name: str, words: tuple[str, ...], done: subprocess.CompletedProcess[str]) -> Told:
    """As qubesctl judges: no summary is a failure, too."""
    code, log = done.returncode, f"/var/log/qubes/mgmt-{name}.log"
    if not code and words[0].startswith("state.") and not (done.stdout + done.stderr).strip():
        return Told(f"{name}: ERROR (exit code 0, but no changes summary)", 1, done)
    line = "OK" if not code else f"ERROR (exit code {code}, details in {log})"
    return Told(f"{name}: {line}", code, done)


def _printable(text: str) -> str:
    """What dom0 keeps of a qube's output."""
    lines = text.encode("ascii", "ignore").decode().splitlines()
    kept = ["".join(sign for sign in line if " " <= sign <= "~") for line in lines]
    return "".join(f"{line}\n" for line in kept)


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
