# SPDX-License-Identifier: GPL-2.0-or-later
"""A qube: network, mount, uts and pid namespaces of its own, held by one process.

Paths inside are the real ones: /etc, /usr and /var are the machine's with a private layer on top,
/rw and /run are empty.  Nothing that is written there reaches the machine.  When the lab's process
ends, however it ends, the holder and all that runs in the qube end with it.
"""

import contextlib
import io
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qubes_vpn_formula.lab.closing import Closing

_HOLDER = Path(__file__).with_name("holder.sh")
_UNSHARE = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child"]
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
}
#: How many times longer than elsewhere everything may take: the machine may be an emulated one.
SLOWNESS = float(os.environ.get("QUBES_VPN_LAB_SLOWNESS", "1"))
#: What a program in a qube shares with it, as nsenter names it.
NAMESPACES = ("net", "mount", "uts", "pid")
#: A command: words, or a text for `sh -c`.
Command = list[str] | str


class CommandFailed(Exception):
    """A command in a qube that had to succeed did not; the text has its output."""


def children(pid: int) -> list[int]:
    """The process ids of a process' children, as the machine sees them, oldest first.

    Raises OSError when there is no such process.
    """
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Process(subprocess.Popen[Any]):
    """A program in a qube.

    Our child is `nsenter`, which waits for the program: signals go to the program itself.  Where it
    enters no pid namespace it becomes the program instead.

    becomes: which of the two.
    """

    becomes = False

    def send_signal(self, sig: int) -> None:
        """Signal the program; nothing happens when it has ended."""
        program = self.program()
        if program:
            with contextlib.suppress(ProcessLookupError):
                os.kill(program, sig)

    def program(self) -> int | None:
        """The program's process id, as the machine sees it; None when it has ended."""
        if self.becomes:
            return self.pid if self.poll() is None else None
        while self.poll() is None:
            with contextlib.suppress(OSError):
                if started := children(self.pid):
                    return started[0]
            time.sleep(0.001)  # nsenter has not forked yet, or its child has just ended
        return None


class Inside:
    """Where programs run: in the namespaces of a process.

    name: the qube's.  pid: that process, as the machine sees it; `/proc/PID/ns/net` is the network.
    namespaces: which of its namespaces a program shares, as nsenter names them.
    """

    def __init__(self, name: str, pid: int | None, namespaces: Sequence[str] = NAMESPACES) -> None:
        self.name = name
        self._pid = pid
        self._namespaces = [f"--{namespace}" for namespace in namespaces]
        self._processes: list[Process] = []

    @property
    def pid(self) -> int:
        """The process whose namespaces they are.  Raises :class:`CommandFailed` without one."""
        if self._pid is None:
            raise CommandFailed(f"{self.name} is not running")
        return self._pid

    @property
    def enter(self) -> list[str]:
        """The words before a command that have it run inside."""
        return ["nsenter", f"--target={self.pid}", *self._namespaces, "--"]

    def popen(self, command: Command, **options: Any) -> Process:
        """Start a program, which ends at the latest with the qube; options are Popen's."""
        words = ["sh", "-c", command] if isinstance(command, str) else list(command)
        options.setdefault("env", ENVIRONMENT)
        options.setdefault("stdin", subprocess.DEVNULL)
        process = Process(self.enter + words, start_new_session=True, **options)
        process.becomes = "--pid" not in self._namespaces
        self._processes = [old for old in self._processes if old.poll() is None]
        self._processes.append(process)
        return process

    def run(
        self,
        command: Command,
        check: bool = True,
        input: str | None = None,
        timeout: float = 30,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the qube and wait.

        input: its standard input.  timeout: seconds until it is killed, on a usual machine.
        Raises :class:`CommandFailed` when it takes longer, or with `check` when it fails.
        """
        pipe = subprocess.PIPE
        process = self.popen(
            command,
            stdin=subprocess.DEVNULL if input is None else pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            errors="replace",
        )
        try:
            stdout, stderr = process.communicate(input, timeout * SLOWNESS)
        except subprocess.TimeoutExpired:
            raise CommandFailed(f"{self.name}: {command}: longer than {timeout} s") from None
        finally:
            process.kill()
        if check and process.returncode:
            raise CommandFailed(
                f"{self.name}: {command}: exit {process.returncode}\n{stdout}{stderr}"
            )
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file, with the folders above it.  Programs inside see it at `path`."""
        self.run(["install", "-D", f"--mode={mode:o}", "/dev/stdin", path], input=text)

    def unpack(self, files: Mapping[str, tuple[bytes | str, int]]) -> None:
        """Write many files, `{path: (content, mode)}`, at the cost of one."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for path, (content, mode) in files.items():
                data = content.encode() if isinstance(content, str) else content
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.size, entry.mode = len(data), mode
                tar.addfile(entry, io.BytesIO(data))
        # tar follows the qube's own links (/lib, /var/run), which are not ours.
        words = ["tar", "--extract", "--directory=/", "--keep-directory-symlink"]
        process = self.popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        complaint = process.communicate(archive.getvalue())[1]
        if process.returncode:
            raise CommandFailed(f"{self.name}: unpacking: {complaint.decode()}")

    def read(self, path: str) -> str:
        """A file's text.  Raises :class:`CommandFailed` when it cannot be read."""
        return self.run(["cat", path]).stdout

    def exists(self, path: str) -> bool:
        """Whether there is something at `path`."""
        return self.run(["test", "-e", path], check=False).returncode == 0


class Qube(Inside, Closing):
    """A running qube; a context manager.

    name: its name and host name.
    pid: the holder's process id, as the machine sees it; `/proc/PID/ns/net` is the qube's network.
    qubesdb: what dom0 tells the qube, with Qubes' own paths: `/qubes-ip`, `/connected-ips` ...

    Needs root and util-linux' unshare and nsenter.  Raises :class:`CommandFailed`.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, None)
        self.qubesdb: dict[str, str] = {}
        self._holder = subprocess.Popen(
            [*_UNSHARE, str(_HOLDER), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is for the lab, which then ends its qubes
            text=True,
        )

    @property
    def pid(self) -> int:
        """The holder's process id; waits until the qube is ready."""
        if self._pid is None:
            if self._holder.stdout.readline() != "ready\n":
                raise CommandFailed(f"{self.name} did not start: {self._holder.stderr.read()}")
            self._pid = children(self._holder.pid)[0]
        return self._pid

    def links(self, *lines: str) -> None:
        """`ip` in its network, where process ids are the machine's, so that they name qubes."""
        words = ["nsenter", f"--target={self.pid}", "--net", "ip", "-batch", "-"]
        done = subprocess.run(words, input="\n".join(lines), capture_output=True, text=True)
        if done.returncode:
            raise CommandFailed(f"{self.name}: {done.stderr}")

    def close(self) -> None:
        """End the qube and all that runs in it; may be called again."""
        self._holder.stdin.close()
        try:
            self._holder.wait(10)
        except subprocess.TimeoutExpired:
            self._holder.send_signal(signal.SIGKILL)  # --kill-child: the holder goes with it
            self._holder.wait()
        for process in self._processes:
            process.wait()
        self._processes = []
