# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0's Salt in the booted lab, laid out as Qubes lays it out (docs/decisions/0030).

Its /srv is a folder that only its own programs see there; what a bundle puts into it is where the
formula is found, and nowhere else.  Its Admin API is the embedded Qubes.  What is Qubes' own is
restated from qubes-mgmt-salt 4.2.3: the minion's configuration and what :meth:`Dom0.copy` gives to
a management qube (`qubessalt/__init__.py`).
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import yaml

import qubes_vpn_formula
from qubes_vpn_formula import bundle
from qubes_vpn_formula.embedded import front
from qubes_vpn_formula.embedded.dom0 import FRESH
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.masterless import salt_program

_PACKAGE = Path(qubes_vpn_formula.__file__).parent
_MOUNT = 'mount --bind "$0" /srv && exec "$@"'
_FOLDERS = ("salt/_tops", "user_salt", "formulas", "pillar/base", "user_pillar")
#: The minion's configuration, as far as it decides something (minion.d).
MINION = {
    "id": "dom0",
    "grains": {"roles": ["dom0"]},
    "file_client": "local",
    "file_roots": {"base": ["/srv/salt"], "user": ["/srv/user_salt"]},
    "pillar_roots": {"base": ["/srv/pillar", "/srv/pillar/base"], "user": ["/srv/user_pillar"]},
    "top_file_merging_strategy": "merge",
    "default_top": "base",
    "env_order": [],
    "state_top": "salt://top.sls",
    "renderer": "yaml_jinja",
    "hash_type": "md5",
    "fileserver_limit_traversal": False,
    "failhard": False,
    "autoload_dynamic_modules": True,
    "clean_dynamic_modules": True,
    "disable_modules": ["git"],
    "yum_provider": "yumpkg_api",
    "providers": {"service": "systemd"},
    "pillar_opts": True,
    "retcode_passthrough": True,
    "output": "highstate",
    "state_output": "highstate",
    "backup_mode": "minion",
    # It is the lab's machine that Salt would look at here.
    "enable_fqdns_grains": False,
    "enable_gpu_grains": False,
}


class Dom0:
    """dom0 in a folder; the formula is installed, and there is no pillar.

    salt: a folder that Python finds Salt in.  qubes: its machine; None is a fresh one.
    """

    def __init__(self, folder: Path, salt: Path, qubes: EmbeddedQubes | None = None) -> None:
        self.srv, self._folder = folder / "srv", folder
        for name in _FOLDERS:
            (self.srv / name).mkdir(parents=True)
        self.qubes = qubes or EmbeddedQubes(folder / "qubes.json")
        # Away from the checkout, whose `_utils` it would make importable.
        shutil.copytree(_PACKAGE, folder / "lib" / _PACKAGE.name)
        path = [folder / "lib", salt, sysconfig.get_path("purelib")]
        base = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
        base.pop("PYTHONDONTWRITEBYTECODE", None)
        self.environ = front.environ(self.qubes.path, base)
        shutil.copytree(FRESH, folder, dirs_exist_ok=True)
        # Salt complains once about each cache whose folder it has not made yet.
        for name in ("var/cache/salt/minion", "var/lib"):
            (folder / name).mkdir(parents=True)
        more = {"root_dir": str(folder), "qubes_vpn_folder": str(folder / "var/lib/qubes-vpn")}
        (folder / "minion").write_text(yaml.safe_dump({**MINION, **more}))
        self._tops: dict[str, dict[str, list[str]]] = {}
        for name, content in bundle.members().items():
            if name.startswith("salt/"):
                (self.srv / name).parent.mkdir(parents=True, exist_ok=True)
                (self.srv / name).write_bytes(content)

    def pillar(self, name: str, data: Any, qubes: list[str] | None = None) -> None:
        """Write /srv/pillar/NAME and enable it, for these qubes; None is all, and dom0."""
        folder = self.srv / "pillar" / name
        folder.mkdir(exist_ok=True)
        (folder / "init.sls").write_text(yaml.safe_dump(data), encoding="utf-8")
        self._tops[name] = {qube: [name] for qube in (["*"] if qubes is None else qubes)}
        merged: dict[str, list[str]] = {}
        for top in self._tops.values():
            for qube, names in top.items():
                merged.setdefault(qube, []).extend(names)
        (self.srv / "pillar/top.sls").write_text(yaml.safe_dump({"base": merged}))

    def qubesctl(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """`qubesctl --dom0-only WORDS`.  environ: more of what it is told by its environment."""
        options = [f"--config-dir={self._folder}", "--local", "--no-color"]
        command = [*salt_words("salt-call"), *options, *words]
        return with_srv(self.srv, command, {**self.environ, **environ})

    def domains(self) -> dict[str, bool]:
        """Its qubes by name, and whether they run."""
        lines = self.qubes.call("dom0", "admin.vm.List").decode().splitlines()
        return {line.split()[0]: " state=Running" in line for line in lines}

    def copy(self, name: str, folder: Path) -> Path:
        """What qubesctl copies for a target, in a new folder: `srv`, which is what it returns.

        All of /srv without the pillar's roots, links followed; the target's pillar, rendered here;
        the modules as they were synced last; the file roots.  Raises RuntimeError when the pillar
        cannot be rendered.
        """
        done = self.qubesctl(f"--id={name}", "--output=yaml", "pillar.items")
        rendered = yaml.safe_load(done.stdout) if not done.returncode else None
        if not isinstance(rendered, dict) or "_errors" in rendered["local"]:
            raise RuntimeError(f"the pillar of {name}: {done.stdout}{done.stderr}")
        pillar = rendered["local"]
        master = pillar.pop("master")
        srv = folder / "srv"
        shutil.copytree(self.srv, srv)
        for roots in master["pillar_roots"].values():
            for root in roots:
                shutil.rmtree(folder / root.lstrip("/"), ignore_errors=True)
        modules = Path(master["extension_modules"])
        if modules.exists():
            shutil.copytree(modules, srv / "_extmods")
        settings = {"file_roots": master["file_roots"]}
        (srv / "master").write_text(yaml.safe_dump(settings))
        (srv / "pillar").mkdir()
        (srv / "pillar/combined.sls").write_text(yaml.safe_dump(pillar))
        (srv / "pillar/top.sls").write_text(yaml.safe_dump({"base": {name: ["combined"]}}))
        return srv


def with_srv(
    srv: Path, words: list[str], environ: dict[str, str], *unshare: str
) -> subprocess.CompletedProcess[str]:
    """Run a program to which a folder is /srv.  unshare: more options of that program."""
    return subprocess.run(
        ["unshare", "--mount", *unshare, "--", "sh", "-c", _MOUNT, str(srv), *words],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def salt_words(name: str) -> list[str]:
    """A program of Salt's, without the .pth files by which the checkout's modules are found."""
    return [sys.executable, "-S", salt_program(name)]
