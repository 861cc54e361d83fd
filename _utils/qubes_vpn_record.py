# SPDX-License-Identifier: GPL-2.0-or-later
"""What the formula replaced on this machine, written down in dom0 before it is replaced.

One JSON object a line, only ever appended, each on the disk before the change that it tells of:

- ``{"run": TIME}``: the lines that follow are of this run; written with its first change.
  ``"undoing": true``: the run is an undo.
- ``{"wiring": {NAME: NETVM}}``: who hung on what before the run moved anybody.
- ``{"guard": {...}}``: what its pillar promised (:class:`qubes_vpn_guard.Guard` as plain data).
- ``{"change": KIND, "of": NAME, "key": KEY, "old": VALUE, "new": VALUE, "uuid": UUID}``, kind
  ``property``, ``feature``, ``firewall`` (values: lists of rules), ``global`` (of dom0) or ``file``
  (of dom0; key: its path; values: texts).  null: unset.  ``"inherited": true``: *old* was nobody's
  choice.  uuid: the qube's.  A change to nobody's choice has no *new*.
- ``{"making": NAME}``, ``{"made": NAME, "uuid": UUID}``: before and after a qube or template is
  made.  By the uuid a later qube of that name is not taken for it.
- ``{"undone": [NUMBER...]}``: these runs, counted from 1, have been undone.

A line that a kill cut off tells of a change that was not made: it is ignored, and the next line
takes its place.  No secret can be in here, because the formula writes none.
"""

import contextlib
import json
import os
import stat
import time
from pathlib import Path

#: Where it lies, unless the minion's option ``qubes_vpn_folder`` says otherwise.
FOLDER = "/var/lib/qubes-vpn"
NAME = "record.jsonl"


class Unusable(Exception):
    """The record cannot be read or written: the text says why and what to do."""


class Record:
    """The record in *folder*, for one run.  Nothing is read or written before the first change.

    undoing: whether the run is an undo; to be set before its first change.

    Every method raises :class:`Unusable` when the line is not on the disk afterwards.
    """

    def __init__(self, folder=FOLDER):
        self.folder = Path(folder)
        self._begun = self._wired = self._promised = False
        self.undoing = False

    def change(self, kind, of, key, old, **more):
        """*key* of *of*, which is *old*, is about to change; *more* as the line has it."""
        more = {name: value for name, value in more.items() if value or name == "new"}
        self._append({"change": kind, "of": of, "key": key, "old": old, **more})

    def wiring(self, netvms):
        """Qubes are about to be moved: only the first call of a run is written."""
        if not self._wired:
            self._append({"wiring": netvms})
            self._wired = True

    def promise(self, guard):
        """By this the moves are judged: only the first call of a run is written."""
        if not self._promised:
            self._append({"guard": guard})
            self._promised = True

    def making(self, name):
        """A qube or a template is about to be made."""
        self._append({"making": name})

    def made(self, name, uuid):
        """It is made, and it is ours."""
        self._append({"made": name, "uuid": uuid})

    def lines(self):
        """What has been written so far: see :func:`read`."""
        return read(self.folder)

    def undone(self, runs):
        """These runs have been undone."""
        with self._words(), self._opened() as file:
            _write(file, {"undone": list(runs)})

    def _append(self, line):
        with self._words(), self._opened() as file:
            if not self._begun:
                begin = {"run": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
                _write(file, {**begin, "undoing": True} if self.undoing else begin)
                self._begun = True
            _write(file, line)

    @contextlib.contextmanager
    def _words(self):
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise Unusable(
                f"what is there cannot be recorded in {self.folder}/{NAME} ({reason}), and so "
                "nothing is replaced. See to the folder, then run this again."
            ) from error

    @contextlib.contextmanager
    def _opened(self):
        with contextlib.suppress(FileExistsError):
            self.folder.mkdir(0o700)
            _sync(self.folder.parent)
        with _inside(self.folder) as folder:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(NAME, flags, 0o600, dir_fd=folder)
            try:
                _expect_ours(file, stat.S_ISREG)
                _drop_torn_line(file)
                os.fsync(folder)
                yield file
            finally:
                os.close(file)

    def remove(self):
        """Takes the record away, and its folder if nothing else is in it."""
        with self._words(), contextlib.suppress(FileNotFoundError):
            with _inside(self.folder) as folder:
                os.unlink(NAME, dir_fd=folder)
            with contextlib.suppress(OSError):
                self.folder.rmdir()


def read(folder=FOLDER):
    """All lines, as a list of dicts, oldest first; none when there is no record yet."""
    path = Path(folder) / NAME
    try:
        with _inside(folder) as inside:
            file = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=inside)
            with os.fdopen(file, "rb") as opened:
                _expect_ours(file, stat.S_ISREG)
                *lines, _torn = opened.read().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror or error}") from error
    return [_parsed(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def written(lines):
    """What was written last, has a value, and is not undone: ``{(kind, of, key): its line}``."""
    undone = {number for line in lines for number in line.get("undone", ())}
    run, last = 0, {}
    for line in lines:
        run += "run" in line
        if "change" in line and run not in undone:
            last[line["change"], line["of"], line["key"]] = line
    return {key: line for key, line in last.items() if "new" in line}


def _parsed(line, where):
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unusable(
            f"{where} is damaged. Put back a copy from a backup of dom0, or take the line out by "
            "hand: what it told of is then not undone."
        )
    return found


@contextlib.contextmanager
def _inside(folder):
    """The folder, opened, when it is one that only its owner can write to."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _expect_ours(opened, stat.S_ISDIR)
        yield opened
    finally:
        os.close(opened)


def _expect_ours(opened, kind):
    found = os.fstat(opened)
    if not kind(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(0, "it is not root's alone to write")


def _drop_torn_line(file):
    """Cuts off what a kill left behind the last whole line."""
    size = end = os.fstat(file).st_size
    while end and os.pread(file, 1, end - 1) != b"\n":
        end -= 1
    if end < size:
        os.ftruncate(file, end)


def _write(file, line):
    data = (json.dumps(line) + "\n").encode()
    while data:
        data = data[os.write(file, data) :]
    os.fsync(file)


def _sync(folder):
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
