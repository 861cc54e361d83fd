# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the booted qubes are: mounts, processes and control groups apart from the machine's.

All that is written lies in memory and goes with the process that made the room, however it ends.
"""

import itertools
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from qubes_vpn_formula.lab.agent.shims.python.qubesdb import QubesDB
from qubes_vpn_formula.lab.closing import Closing
from qubes_vpn_formula.lab.qube import ENVIRONMENT, CommandFailed, children

_HOLDER = Path(__file__).with_name("room.sh")
_UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
_GROUP = "qubes-vpn-lab"


class Room(Closing):
    """A context manager.  group: the name of its control group.  Raises :class:`CommandFailed`."""

    def __init__(self) -> None:
        self.group = f"{_GROUP}-{os.getpid()}-{id(self):x}"
        pipe = subprocess.PIPE
        self._holder = subprocess.Popen(
            [*_UNSHARE, str(_HOLDER), self.group],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=ENVIRONMENT,
            start_new_session=True,
            text=True,
        )
        if self._holder.stdout.readline() != "ready\n":
            raise CommandFailed(f"no room for qubes: {self._holder.stderr.read().strip()}")
        self._pid = children(self._holder.pid)[0]
        self._databases: dict[str, dict[str, str]] = {}

    @staticmethod
    def hindrance() -> str | None:
        """Why there can be no room here; None when there can."""
        if os.geteuid():
            return "only root may make namespaces and mounts"
        try:
            with Room() as room:
                options = []
                for kind in ("lower", "upper", "work"):
                    room.folder(f"layers/{kind}")
                    options.append(f"{kind}dir=/run/layers/{kind}")
                words = ["mount", "-t", "overlay", "-o", ",".join(options), "try", "/run/disks"]
                done = room.popen(words)
                said = done.communicate()[1]
                return f"no overlayfs: {said.strip()}" if done.returncode else None
        except CommandFailed as error:
            return str(error)

    def popen(self, *words: list[str]) -> subprocess.Popen[str]:
        """A program in the room, where process ids are its own."""
        pipe = subprocess.PIPE
        enter = ["nsenter", f"--target={self._pid}", "--mount", "--pid", "--"]
        return subprocess.Popen(
            [*enter, *itertools.chain(*words)],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=ENVIRONMENT,
            start_new_session=True,
            text=True,
        )

    def end(self, process: subprocess.Popen[str]) -> subprocess.Popen[str]:
        """SIGKILL for a program of :meth:`popen` and all that it started."""
        with suppress(OSError):
            for program in children(process.pid):
                for child in children(program):
                    os.kill(child, signal.SIGKILL)
                os.kill(program, signal.SIGKILL)
        return process

    def path(self, path: str) -> Path:
        """A path of the room as this process sees it."""
        return Path(f"/proc/{self._pid}/root") / path.lstrip("/")

    def folder(self, name: str) -> Path:
        """A folder below the room's /run, made when it is not there."""
        folder = self.path(f"/run/{name}")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def tell(self, name: str, wanted: dict[str, str]) -> None:
        """Make a qube's QubesDB what dom0 wants it to be; the qube's own keys stay."""
        database = QubesDB(self.folder(f"qubesdb/{name}"))
        told = self._databases.get(name, {})
        gone, new = told.keys() - wanted.keys(), dict(wanted.items() - told.items())
        for key in gone:
            database.rm(key)
        for key, value in new.items():
            database.write(key, value)
        self._databases[name] = dict(wanted)

    def close(self) -> None:
        """End everything in it."""
        self._holder.stdin.close()
        try:
            self._holder.wait(10)
        except subprocess.TimeoutExpired:
            self._holder.kill()  # --kill-child: the holder goes with it
            self._holder.wait()
        _sweep()


def _sweep() -> None:
    """Remove empty control groups: this process', and those of labs that were killed.

    Another lab that runs may have made one for a qube that it is about to start.
    """
    for base in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
        for group in base.glob(f"{_GROUP}-*"):
            owner = group.name.removeprefix(f"{_GROUP}-").partition("-")[0]
            if owner != str(os.getpid()) and Path("/proc", owner).exists():
                continue
            # One that is in use refuses, and its folders stay.
            for folder, _, _ in os.walk(group, topdown=False):
                with suppress(OSError):
                    Path(folder).rmdir()
