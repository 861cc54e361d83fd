# SPDX-License-Identifier: GPL-2.0-or-later
"""QubesDB as files, for programs that expect Qubes' own module: the part of its interface they use.

The value of `/a/b` is the file `a/b/=` under the root, so that a key may have keys below it.  Every
change adds its path to a journal, which is what watches follow.  Nothing else is needed: no daemon,
and the machine can write with this same code from outside.
"""

import os
import select
import signal
import threading
from pathlib import Path

ROOT = Path("/run/qubesdb")
#: A path's length in bytes, with the terminating null (QDB_MAX_PATH).
_LONGEST = 64
#: Seconds between two looks at the journal.
_PAUSE = 0.02


class Error(RuntimeError):
    """What Qubes' module raises; args are errno and its text."""


class QubesDB:
    """A connection.  root: where the files are."""

    def __init__(self, root=ROOT):
        self._root = Path(root)
        self._journal = self._root / "=journal"
        self._root.mkdir(parents=True, exist_ok=True)
        self._journal.touch()
        self._read = self._journal.stat().st_size
        self._watched = []
        self._fired = []
        self._wake = None

    def _file(self, path):
        return self._root / path.strip("/") / "="

    def _changed(self, path):
        with self._journal.open("ab", buffering=0) as journal:
            journal.write(path.encode() + b"\n")

    def read(self, path):
        """The value in bytes, or None."""
        try:
            return self._file(path).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, path, value):
        """Store a value, text or bytes.  Raises Error for a path that is too long."""
        if len(path.encode()) >= _LONGEST:
            raise Error(0, "Error")
        file = self._file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f"={os.getpid()}")
        new.write_bytes(value.encode() if isinstance(value, str) else value)
        new.rename(file)
        self._changed(path)

    def rm(self, path):
        """Remove a key, or with a final slash everything below it; a missing one is no error."""
        doomed = self.list(path) if path.endswith("/") else [path]
        for key in doomed:
            self._file(key).unlink(missing_ok=True)
        if doomed:
            self._changed(path)

    def list(self, prefix):
        """The paths that begin with the prefix, sorted."""
        found = (f"/{file.parent.relative_to(self._root)}" for file in self._root.rglob("="))
        return sorted(path for path in found if path.startswith(prefix))

    def multiread(self, prefix):
        """A dictionary of path and value in bytes."""
        return {path: self._file(path).read_bytes() for path in self.list(prefix)}

    def watch(self, path):
        """From now on report changes of a path, or with a final slash of what is below it."""
        self._watched.append(path)
        if self._wake is None and threading.current_thread() is threading.main_thread():
            self._wake, write_end = os.pipe2(os.O_NONBLOCK)
            signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    def read_watch(self):
        """Wait for a change and return its path.  Raises InterruptedError after a signal."""
        told = None
        while not self._fired:
            with self._journal.open("rb") as journal:
                journal.seek(self._read)
                new = journal.read()
            new = new[: new.rfind(b"\n") + 1]
            self._read += len(new)
            self._fired += filter(self._is_watched, new.decode().splitlines())
            if self._fired:
                break
            # Everything up to here has been dealt with, or the caller would not ask for more.
            if told != self._read:
                told = self._read
                (self._root / "=idle").write_text(str(told), encoding="ascii")
            wake = [self._wake] if self._wake is not None else []
            if select.select(wake, [], [], _PAUSE)[0]:
                os.read(self._wake, 512)
                raise InterruptedError(4, "Interrupted system call")
        return self._fired.pop(0)

    def unsettle(self):
        """Forget what a program that watched before has dealt with."""
        (self._root / "=idle").unlink(missing_ok=True)

    def settled(self):
        """Whether the program that watches has dealt with every change so far."""
        try:
            told = (self._root / "=idle").read_text(encoding="ascii")
        except FileNotFoundError:
            return False
        return told == str(self._journal.stat().st_size)

    def _is_watched(self, path):
        return any(
            path.startswith(watched) if watched.endswith("/") else path == watched
            for watched in self._watched
        )
