# SPDX-License-Identifier: GPL-2.0-or-later
"""The embedded Qubes: the fake qubesd with its state in one file, for any number of processes.

Beside the state file PATH lie PATH.lock (held during a call), PATH.calls (every call, see `calls`),
PATH.faults (failures waiting to happen, see `faults`) and PATH.follower (see `followers`).
"""

import contextlib
import fcntl
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qubes_vpn_formula.embedded import calls, faults, followers
from qubes_vpn_formula.embedded.qubesd import AdminError, EmptyAnswer, Qubesd
from qubes_vpn_formula.embedded.qubesd.method import writes

DEFAULT_RELEASE = "4.3"
#: bytes of a system; the templates that the recordings start from are empty
_SYSTEM = 1024**3


class EmbeddedQubes:
    """One machine, by the path of its state file.

    When the file is absent it is made, in the state that the contract recordings start from, with
    a system in each template.

    release: "4.2" or "4.3"; without it what the file says, and 4.3 for a new one. ValueError when
    the file is of another release.
    """

    def __init__(self, path: str | os.PathLike, release: str | None = None) -> None:
        self.path = Path(path).resolve()
        self._mutex = threading.Lock()
        self._qubesd: Qubesd | None = None
        self._loaded: Any = None  # the open state file that self._qubesd came from or went to
        with self._exclusive():
            if not self.path.exists():
                self._save(_installed(Qubesd(release or DEFAULT_RELEASE)))
            self.release: str = self._current().release
        if release not in (None, self.release):
            raise ValueError(f"{self.path} holds a Qubes {self.release}, not {release}")

    def call(
        self, dest: str, method: str, arg: str = "", payload: bytes = b"", pid: int | None = None
    ) -> bytes:
        """Makes one Admin API call and answers its bytes.

        pid: the process that a `kill` fault hits; this one when not given. Killed "in" the call,
        it is gone while the call is done: by this process, or by one that is forked for it.
        Raises AdminError or EmptyAnswer, as qubesd answers.
        """
        write = writes(method)
        with self._exclusive():
            fault = faults.due(self._beside("faults"), dest, method, arg, write)
            if fault and fault.kill == "in":
                _kill_and_go_on(pid)
            outcome = "ok"
            try:
                return self._call_or_fail(fault, dest, method, arg, payload)
            except AdminError as error:
                outcome = error.error
                raise
            except EmptyAnswer:
                outcome = "empty"
                raise
            finally:
                if fault and fault.kill:
                    outcome = f"killed {fault.kill}"
                call = calls.Call(dest, method, arg, write, outcome)
                calls.append(self._beside("calls"), call)
                if write:
                    followers.wait(self.path)
                if fault and fault.kill == "in":
                    if pid is None:
                        os._exit(0)
                elif fault and fault.kill:
                    os.kill(pid or os.getpid(), signal.SIGKILL)

    def calls(self) -> list[calls.Call]:
        """The calls made so far, oldest first."""
        return calls.read(self._beside("calls"))

    def forget_calls(self) -> None:
        """Empties the call log."""
        self._beside("calls").unlink(missing_ok=True)

    def fail(self, **fault: Any) -> None:
        """Makes a later call fail, or kill its caller.

        `fail(at=7, kill="before")`, `fail(method="admin.vm.Start", error="QubesVMError")`; the
        arguments are those of `faults.Fault`.
        """
        with self._exclusive():
            faults.add(self._beside("faults"), faults.Fault(**fault))

    def snapshot(self) -> dict[str, Any]:
        """A copy of the machine's whole state, taken without a call."""
        with self._exclusive():
            return json.loads(json.dumps(self._current().state))

    def _call_or_fail(
        self, fault: faults.Fault | None, dest: str, method: str, arg: str, payload: bytes
    ) -> bytes:
        failing = fault is not None and (fault.kill == "before" or fault.error is not None)
        if failing and not fault.done:
            raise _failure(fault)
        qubesd = self._current()
        try:
            answer = qubesd.call(dest, method, arg, payload)
            if failing:
                raise _failure(fault)
            return answer
        except (AdminError, EmptyAnswer):
            raise
        except BaseException:
            self._qubesd = None  # a defect of ours left it half changed; the file is whole
            raise
        finally:
            # Also after an error: the real qubesd stores some values and then refuses them.
            if self._qubesd and qubesd.changed:
                self._save(qubesd)

    def _beside(self, what: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{what}")

    def _current(self) -> Qubesd:
        """The machine as the file has it, read again only when another process wrote it."""
        if self._qubesd is None or not self._is_loaded():
            self._keep_open()
            content = json.load(self._loaded)
            self._qubesd = Qubesd(content["release"], content["state"])
        return self._qubesd

    def _is_loaded(self) -> bool:
        # Every save makes a new file, and an open file keeps its inode number from being reused,
        # so this comparison is exact; times and sizes are not.
        return os.path.samestat(os.fstat(self._loaded.fileno()), self.path.stat())

    def _save(self, qubesd: Qubesd) -> None:
        new = self._beside("new")
        content = {"release": qubesd.release, "state": qubesd.state}
        new.write_text(json.dumps(content), encoding="utf-8")
        new.replace(self.path)
        self._keep_open()
        self._qubesd = qubesd

    def _keep_open(self) -> None:
        if self._loaded:
            self._loaded.close()
        self._loaded = self.path.open(encoding="utf-8")

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One call at a time, over all threads and processes."""
        with self._mutex, self._beside("lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Closing alone would leave it locked by a child that was forked meanwhile.
                fcntl.flock(lock, fcntl.LOCK_UN)


def _failure(fault: faults.Fault) -> Exception:
    return AdminError(fault.error, "injected fault") if fault.error else EmptyAnswer()


def _kill_and_go_on(pid: int | None) -> None:
    """Kills the process `pid`; without it this one, and returns in a copy of it, as its qubesd."""
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    elif os.fork():
        os.kill(os.getpid(), signal.SIGKILL)


def _installed(qubesd: Qubesd) -> Qubesd:
    for qube in qubesd.state["qubes"].values():
        if qube["klass"] == "TemplateVM":
            qube["volumes"]["root"]["used"] = _SYSTEM
    return qubesd
