# SPDX-License-Identifier: GPL-2.0-or-later
"""Qubes' agent in a booted qube, as a layer above the root: units, programs, and what they run on.

Units and what they do are those of :mod:`qubes_vpn_formula.lab.boot` and `lab/agent/restated.py`,
which run here inside the qube.  Beside them is what only a booted qube has: bind-dirs, early
settings, NetworkManager's part.  Restated from core-agent-linux 4.4.
"""

import os
import shutil
from pathlib import Path

import qubes_vpn_formula
from qubes_vpn_formula.lab import agent
from qubes_vpn_formula.lab.booted.inside.units import dropins, files

#: Of this package, what runs inside a qube.
_PARTS = (
    "__init__.py",
    "lab/__init__.py",
    "lab/boot.py",
    "lab/closing.py",
    "lab/qube.py",
    "lab/agent/__init__.py",
    "lab/agent/antispoof.nft",
    "lab/agent/base.nft",
    "lab/agent/clients.py",
    "lab/agent/restated.py",
    "lab/booted/__init__.py",
    "lab/booted/inside/__init__.py",
    "lab/booted/inside/here.py",
    "lab/booted/inside/units.py",
)
_PACKAGE = Path(qubes_vpn_formula.__file__).parent
_SHIMS = Path(agent.__file__).with_name("shims")
_PYTHON = "usr/lib/python3/dist-packages"
_FOLDERS = ("etc/qubes/qubes-firewall.d", "etc/qubes/suspend-pre.d", "etc/qubes/suspend-post.d")
_APT = 'Acquire::http::Proxy "http://127.0.0.1:8082/";\n'
_UNITS = "usr/lib/systemd/system"


def layer(folder: Path) -> None:
    """Write the agent into an empty folder."""
    for part in _PARTS:
        _copy(_PACKAGE / part, folder / _PYTHON / "qubes_vpn_formula" / part)
    _copy(_SHIMS / "python/qubesdb.py", folder / _PYTHON / "qubesdb.py")
    _copy(_SHIMS / "bin/qubesdb-read", folder / "usr/bin/qubesdb-read")
    _copy(Path(__file__).with_name("inside") / "agent", folder / "usr/lib/qubes/agent")
    for empty in (*_FOLDERS, "rw", "usr/lib/qubes-bind-dirs.d", "etc/qubes-bind-dirs.d"):
        (folder / empty).mkdir(parents=True, exist_ok=True)
    _write(folder / "etc/apt/apt.conf.d/01qubes-proxy", _APT)
    for name, (text, wanting) in files().items():
        _write(folder / _UNITS / name, text)
        for link in wanting:
            path = folder / _UNITS / link / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(f"/{_UNITS}/{name}")
    for path, text in dropins().items():
        _write(folder / path, text)
    # Last: systemd compares them with /usr, to see whether this is a first start.
    for updated in ("etc/.updated", "var/.updated"):
        _write(folder / updated, "")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
