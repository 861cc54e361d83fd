# SPDX-License-Identifier: GPL-2.0-or-later
"""A dom0 for Qubes' own client and its qvm-* programs: mounts of a namespace of its own, as root.

Nothing of Qubes is changed: the marker of dom0, the group `qubes`, the programs in /usr/bin, the
host's name and qubesd's socket are where they look for them. Sources come from QUBES_SRC.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

#: What the upstream states and Qubes' client need, by repository: folders to copy, and where to.
_COPIES = {
    "core-admin-client": {"qubesadmin": "python/qubesadmin"},
    "mgmt-salt-base": {"_modules": "modules", "_utils": "utils"},
    "mgmt-salt-dom0-qvm": {"_modules": "modules", "_states": "states"},
}
_TOOLS = ("qvm-check", "qvm-clone", "qvm-create")
_TOOL = """\
#!{python}
import sys
sys.path.insert(0, {path!r})
from qubesadmin.tools.{module} import main
sys.exit(main())
"""
_ENTER = """\
set -e
mount -t overlay -o lowerdir={etc}:/etc overlay /etc
mount -t overlay -o lowerdir={bin}:/usr/bin overlay /usr/bin
mount -t tmpfs tmpfs /run
ln -s {socket} /run/qubesd.sock
hostname dom0
exec {command}
"""


class Dom0:
    """The files, made in *folder*; they are copies, so that no bytecode gets into QUBES_SRC.

    Raises LookupError, with a sentence, where it cannot be had.
    """

    def __init__(self, folder: Path) -> None:
        if os.getuid() != 0:
            raise LookupError("needs root, for a mount namespace")
        self.folder = folder
        self.socket = folder / "qubesd.sock"
        client = None
        for repository, parts in _COPIES.items():
            source = _checkout(repository)
            client = client or source
            for name, where in parts.items():
                shutil.copytree(source / name, folder / where, dirs_exist_ok=True)
        version = (client / "version").read_text(encoding="utf-8").strip()
        self.release = "4.2" if version.startswith("4.2.") else "4.3"
        self._add_metadata(version)
        self._add_etc()
        self._add_programs()

    @property
    def path(self) -> str:
        """The folder to put on PYTHONPATH."""
        return str(self.folder / "python")

    def command(self, command: list[str]) -> list[str]:
        """A command line that runs *command* in this dom0."""
        script = _ENTER.format(
            etc=self.folder / "etc",
            bin=self.folder / "bin",
            socket=self.socket,
            command=shlex.join(command),
        )
        return ["unshare", "--mount", "--uts", "sh", "-c", script]

    def _add_metadata(self, version: str) -> None:
        """The tools ask for the version of an installed package."""
        info = self.folder / f"python/qubesadmin-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: qubesadmin\nVersion: {version}\n"
        )

    def _add_etc(self) -> None:
        etc = self.folder / "etc"
        etc.mkdir()
        (etc / "qubes-release").write_text(f"Qubes OS release {self.release}\n")
        groups = Path("/etc/group").read_text(encoding="utf-8")
        # In dom0 its member is a plain user; root is the cheaper one to be for upstream's programs.
        (etc / "group").write_text(f"{groups}qubes:x:98:root\n")

    def _add_programs(self) -> None:
        programs = self.folder / "bin"
        programs.mkdir()
        for tool in _TOOLS:
            text = _TOOL.format(
                python=sys.executable, path=self.path, module=tool.replace("-", "_")
            )
            (programs / tool).write_text(text)
            (programs / tool).chmod(0o755)
        # Cloning runs it, for the menu.
        (programs / "qvm-appmenus").symlink_to("true")


def _checkout(repository: str) -> Path:
    sources = os.environ.get("QUBES_SRC")
    if not sources:
        raise LookupError("QUBES_SRC names no folder with checkouts of Qubes' sources")
    for name in (f"qubes-{repository}", repository):
        if (Path(sources) / name).is_dir():
            return Path(sources) / name
    raise LookupError(f"QUBES_SRC={sources} holds no checkout of qubes-{repository}")
