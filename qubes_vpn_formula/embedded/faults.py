# SPDX-License-Identifier: GPL-2.0-or-later
"""Failures that wait for an Admin API call of an embedded Qubes, in a file for all processes.

A fault says which calls it is for (`dest`, `method`, `arg`, `write`; what is not given fits all;
the first three are shell patterns), at which of these it strikes (`at`, from 1), and what happens.
"""

import dataclasses
import fnmatch
import json
from pathlib import Path


@dataclasses.dataclass
class Fault:
    """One waiting failure.

    error: class of the error that qubesd answers instead of doing the call, "" for an empty answer.
    done: qubesd does the call all the same, as when the connection is lost before it can answer.
    kill: SIGKILL for the calling process: "before" the call, which is not done then; "in" it, so
    that qubesd does it for nobody; "after" it is saved.
    once: strikes one time only; otherwise at every fitting call from `at` on.
    """

    error: str | None = None
    done: bool = False
    kill: str | None = None
    at: int = 1
    once: bool = True
    dest: str | None = None
    method: str | None = None
    arg: str | None = None
    write: bool | None = None

    def __post_init__(self) -> None:
        if (self.error is None) == (self.kill is None):
            raise ValueError("a fault needs either error= or kill=")
        if self.kill not in (None, "before", "in", "after"):
            raise ValueError(f"kill={self.kill!r}: 'before', 'in' or 'after' the call")
        if self.done and self.error is None:
            raise ValueError("done= goes with error=")
        if self.at < 1:
            raise ValueError(f"at={self.at}: calls are counted from 1")

    def fits(self, dest: str, method: str, arg: str, write: bool) -> bool:
        """Whether this fault is for such a call."""
        patterns = ((self.dest, dest), (self.method, method), (self.arg, arg))
        return self.write in (None, write) and all(
            pattern is None or fnmatch.fnmatchcase(value, pattern) for pattern, value in patterns
        )


def add(path: Path, fault: Fault) -> None:
    """Puts one more fault into the file `path`."""
    _save(path, [*_load(path), fault])


def due(path: Path, dest: str, method: str, arg: str, write: bool) -> Fault | None:
    """The fault that strikes at this call, if any. Counts the call for every fault that fits."""
    faults = _load(path)
    fitting = [fault for fault in faults if fault.fits(dest, method, arg, write)]
    if not fitting:
        return None
    struck = next((fault for fault in fitting if fault.at == 1), None)
    for fault in fitting:
        fault.at = max(fault.at - 1, 1)
    if struck and struck.once:
        faults.remove(struck)
    _save(path, faults)
    return struck


def _load(path: Path) -> list[Fault]:
    try:
        return [Fault(**fault) for fault in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []


def _save(path: Path, faults: list[Fault]) -> None:
    if faults:
        path.write_text(
            json.dumps([dataclasses.asdict(fault) for fault in faults]), encoding="utf-8"
        )
    else:
        path.unlink()
