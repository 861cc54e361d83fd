# SPDX-License-Identifier: GPL-2.0-or-later
"""What the formula replaced on this machine, written down in dom0 before it is replaced.

One JSON object a line, only ever appended, each on the disk before the change that it tells of.
Each has its own number in it, as ``"line"``: so a line that was lost or moved is noticed, as long
as another one follows it.  Beside that:

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
- ``{"event": WORD, "of": NAME, "at": TIME, "by": WHO, ...}``: what somebody did from dom0 that is
  no run and is not undone, such as a bypass that was opened; in or between runs.

A line that a kill cut off tells of a change that was not made: it is ignored, and the next line
takes its place.  Anything else that is not as above makes the whole record unusable.  The formula
has no secrets to write; but a user's own firewall rules are kept word by word, and with them what
their comments say.  So the file is its owner's alone to read.
"""

import contextlib
import fcntl
import json
import os
import pwd
import re
import stat
import time
from pathlib import Path

#: Where it lies, unless the minion's option ``qubes_vpn_folder`` says otherwise.
FOLDER = "/var/lib/qubes-vpn"
NAME = "record.jsonl"
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}\Z")

_TEXT_OR_NONE = (str, type(None))
#: What a line of each kind has to have, and of which type.
_NEEDED = {
    "run": {"run": str},
    "wiring": {"wiring": dict},
    "guard": {"guard": dict},
    "change": {"change": str, "of": str, "key": str, "old": object},
    "making": {"making": str},
    "made": {"made": str, "uuid": str},
    "undone": {"undone": list},
    "event": {"event": str, "of": str, "at": str, "by": str},
}
_GUARD = {"uplink": str, "shelters": list, "services": list, "outside_vpn": list}
_PLAIN = (str, int, type(None))
#: What the values of each kind of change are.
_VALUES = {"property": _PLAIN, "feature": _TEXT_OR_NONE, "firewall": list}
_VALUES |= {"global": _TEXT_OR_NONE, "file": _TEXT_OR_NONE}


class Unusable(Exception):
    """The record cannot be read or written: the text says why and what to do."""


class Record:
    """The record in *folder*, for one run.  Nothing is read or written before the first change.

    undoing: whether the run is an undo; to be set before its first change.

    Every method raises :class:`Unusable` when the line is not on the disk afterwards.
    """

    def __init__(self, folder=FOLDER):
        self.folder = Path(folder)
        self._begun = self._wired = self._promised = self._checked = False
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

    def check(self):
        """Raises when no line can be written now, or a line before it is damaged; writes none.

        What is replaced under a damaged record could not be put back.  The first answer counts.
        """
        if self._checked:
            return
        with self._words():
            try:
                with _inside(self.folder) as folder:
                    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
                    with _open(folder, flags):
                        pass
            except FileNotFoundError:
                self.folder.parent.stat()  # all but this is made when it is missing
        read(self.folder)
        self._checked = True

    def lines(self):
        """What has been written so far: see :func:`read`."""
        return read(self.folder)

    def undone(self, runs):
        """These runs have been undone."""
        with self._words(), self._opened() as file:
            _write(file, {"undone": list(runs)})

    def event(self, what, of, by, **more):
        """*by*, a user of dom0 or a part of the formula, did *what* with *of*; see above."""
        try:
            with self._opened() as file:
                _write(file, {"event": what, "of": of, "at": _now(), "by": by, **more})
        except OSError as error:  # what is told may have been done: nothing to be run again
            why = f"{self.folder}/{NAME} cannot be written ({_reason(error)})"
            raise Unusable(f"{why}. {_wanted(self.folder)}.") from error

    def _append(self, line):
        with self._words(), self._opened() as file:
            if not self._begun:
                begin = {"run": _now()}
                _write(file, {**begin, "undoing": True} if self.undoing else begin)
                self._begun = True
            _write(file, line)

    @contextlib.contextmanager
    def _words(self):
        try:
            yield
        except OSError as error:
            raise Unusable(
                f"what is there cannot be recorded in {self.folder}/{NAME} ({_reason(error)}), and "
                f"so nothing is replaced. {_wanted(self.folder)}, then run this again."
            ) from error

    @contextlib.contextmanager
    def _opened(self):
        with contextlib.suppress(FileExistsError):
            self.folder.mkdir(0o700)
            _sync(self.folder.parent)
        with _inside(self.folder) as folder:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            with _open(folder, flags) as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # a line's number is of one line only
                _drop_torn_line(file)
                os.fsync(folder)
                yield file

    @contextlib.contextmanager
    def alone(self, make=False):
        """Yields whether no other process is in here: one that opens a bypass, or closes one.

        make: whether the folder is made when it is missing.  Where there is none that can be used
        nobody can be in it: nothing is opened that cannot be recorded.
        """
        opened, is_alone = None, True
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    self.folder.mkdir(0o700)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            opened = os.open(self.folder, flags)
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_alone = False
        except OSError:
            pass
        try:
            yield is_alone
        finally:
            if opened is not None:
                os.close(opened)

    def remove(self):
        """Takes the record away, and its folder if nothing else is in it."""
        with self._words(), contextlib.suppress(FileNotFoundError):
            with _inside(self.folder) as folder:
                os.unlink(NAME, dir_fd=folder)
            with contextlib.suppress(OSError):
                self.folder.rmdir()


def user():
    """Who is at it, for the record: a user of dom0."""
    name = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    return name if _USER.match(name) else "somebody"


def read(folder=FOLDER):
    """All lines, as a list of dicts without their numbers, oldest first; none without a record."""
    path = Path(folder) / NAME
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with _inside(folder) as inside, _open(inside, flags) as file:
            *lines, _torn = os.pread(file, os.fstat(file).st_size, 0).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Unusable(
            f"{path} cannot be read ({_reason(error)}). {_wanted(folder)}, then run this again."
        ) from error
    found, runs = [], 0
    for number, line in enumerate(lines, 1):
        parsed = _parsed(line)
        if parsed is None or parsed.pop("line") != number or not _follows(parsed, runs):
            raise Unusable(
                f"{path}, line {number} is damaged, or one before it is lost: nothing could be "
                "undone by such a record, so nothing is changed. Put back a whole copy from a "
                "backup of dom0. Without one, move the file away and keep it: it tells what was "
                "there, and you can put that back by hand. The next run begins a new record."
            )
        runs += "run" in parsed
        found.append(parsed)
    return found


def events(lines, of=None):
    """The events among *lines*, oldest first; *of*: of this qube only."""
    return [line for line in lines if "event" in line and of in (None, line["of"])]


def told(event):
    """An event in a line."""
    known = ("event", "of", "at", "by")
    more = ", ".join(f"{key} {value}" for key, value in event.items() if key not in known)
    end = f" ({more})" if more else ""
    return f"{event['at']}  {event['of']}: {event['event']} by {event['by']}{end}"


def written(lines):
    """What was written last, has a value, and is not undone: ``{(kind, of, key): its line}``."""
    undone = {number for line in lines for number in line.get("undone", ())}
    run, last = 0, {}
    for line in lines:
        run += "run" in line
        if "change" in line and run not in undone:
            last[line["change"], line["of"], line["key"]] = line
    return {key: line for key, line in last.items() if "new" in line}


def _parsed(line):
    """The line as a dict of a shape that the readers expect, or None."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if not isinstance(found, dict) or "line" not in found:
        return None
    kinds = [kind for kind in _NEEDED if kind in found]
    if len(kinds) != 1 or not _has(found, _NEEDED[kinds[0]]):
        return None
    return found if _is_whole(found) else None


def _has(found, needed):
    return all(key in found and isinstance(found[key], kind) for key, kind in needed.items())


def _is_whole(found):
    """Whether what is in a line's values is of the right types, too."""
    if "wiring" in found:
        return all(isinstance(netvm, _TEXT_OR_NONE) for netvm in found["wiring"].values())
    if "guard" in found:
        guard = found["guard"]
        upstreams = guard.get("upstreams", {})  # earlier versions had none
        return (
            _has(guard, _GUARD)
            and all(_all_texts(value) for value in guard.values() if isinstance(value, list))
            and isinstance(upstreams, dict)
            and all(isinstance(netvm, _TEXT_OR_NONE) for netvm in upstreams.values())
        )
    if "undone" in found:
        return all(isinstance(number, int) for number in found["undone"])
    if "change" in found:
        values = [found[key] for key in ("old", "new") if key in found]
        kind = _VALUES.get(found["change"], ())
        return isinstance(found.get("uuid", ""), str) and all(
            isinstance(value, kind) and (kind is not list or _all_texts(value)) for value in values
        )
    return True


def _all_texts(values):
    return all(isinstance(value, str) for value in values)


def _follows(line, runs):
    """Whether *line* makes sense after the headers of so many *runs*."""
    if "undone" in line:
        return all(1 <= number <= runs for number in line["undone"])
    return runs > 0 or "run" in line or "event" in line


def _now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@contextlib.contextmanager
def _inside(folder):
    """The folder, opened, when it is one that only its owner can write to."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _expect_ours(opened, stat.S_ISDIR)
        yield opened
    finally:
        os.close(opened)


@contextlib.contextmanager
def _open(folder, flags):
    """The record's file in *folder*, opened."""
    file = os.open(NAME, flags, 0o600, dir_fd=folder)
    try:
        _expect_ours(file, stat.S_ISREG)
        yield file
    finally:
        os.close(file)


def _reason(error):
    return error.strerror or error


def _wanted(folder):
    """What the folder and the file have to be."""
    owner = os.geteuid()
    return (
        f"See to it that {folder} is a folder of mode 0700 and {NAME} in it a file of mode 0600, "
        f"no links, both of user {'root' if owner == 0 else owner} (chown, chmod)"
    )


def _expect_ours(opened, kind):
    found = os.fstat(opened)
    if not kind(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(0, "others own it or can write to it")


def _drop_torn_line(file):
    """Cuts off what a kill left behind the last whole line."""
    size = end = os.fstat(file).st_size
    while end and os.pread(file, 1, end - 1) != b"\n":
        end -= 1
    if end < size:
        os.ftruncate(file, end)


def _write(file, line):
    number = os.pread(file, os.fstat(file).st_size, 0).count(b"\n") + 1
    data = (json.dumps({"line": number, **line}) + "\n").encode()
    while data:
        data = data[os.write(file, data) :]
    os.fsync(file)


def _sync(folder):
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
