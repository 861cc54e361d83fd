# SPDX-License-Identifier: GPL-2.0-or-later
"""A run of a plan that is disturbed at every one of its Admin API calls, and the run after it.

Starting anew for each disturbance would take an hour.  So the process forks at each call: the copy
meets the fault, for real, and gets as far as it gets; then the original puts the machine back as it
was before that call, and goes on undisturbed.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from snapshots import compared, in_clear, put_back

from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.embedded.qubesd.method import writes

#: exit status of a run that put somebody in clear, and of one that raised something
_LET_OUT, _BROKEN = 99, 70
_NOTE = "x-qubes-vpn-making."


class Case(NamedTuple):
    """One disturbance and what it left.

    code: 0 the run got to the end, 1 a step failed, -9 killed.  left: the machine's state file.
    """

    where: str
    code: int
    left: bytes


class Watch:
    """Looks after each write who is in clear and was not in `before`; a class in the way of calls.

    A qube gets the default netvm when it is created: who is in clear after one write has to be out
    of it after the next.
    """

    def __init__(self, embedded: Any, before: set[str]) -> None:
        self.let_out: set[str] = set()
        self._embedded, self._before, self._last = embedded, before, set()

    def __enter__(self) -> "Watch":
        self._call = call = EmbeddedQubes.call

        def watched(machine, dest, method, *rest):
            try:
                return call(machine, dest, method, *rest)
            finally:
                if writes(method):
                    self._look()

        EmbeddedQubes.call = watched
        return self

    def __exit__(self, *_error: object) -> None:
        EmbeddedQubes.call = self._call

    def _look(self) -> None:
        out = in_clear(self._embedded.snapshot()) - self._before
        self.let_out |= out & self._last
        self._last = out


def disturb(
    embedded: Any, run: Callable[[], bool], faults: Callable[[int, str], Iterable[dict]]
) -> list[Case]:
    """Disturbs `run`, which answers whether all went well, by each of faults(call number, method).

    `embedded` is left as the undisturbed run leaves it.
    """
    call, cases, number, original = EmbeddedQubes.call, [], 0, os.getpid()
    watch = Watch(embedded, in_clear(embedded.snapshot()))

    def disturbed(self, dest, method, arg="", *rest):
        nonlocal number
        number += 1
        start = embedded.path.read_bytes()
        for fault in faults(number, method):
            if (child := os.fork()) == 0:
                EmbeddedQubes.call = call
                watch.__enter__()
                embedded.fail(**fault)
                return EmbeddedQubes.call(self, dest, method, arg, *rest)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            embedded.snapshot()  # waits for a qubesd that goes on for nobody
            where = f"{fault} at call {number}: {dest} {method} {arg}"
            cases.append(Case(where, code, embedded.path.read_bytes()))
            put_back(embedded, start)
        return call(self, dest, method, arg, *rest)

    EmbeddedQubes.call = disturbed
    code = _BROKEN
    try:
        code = 0 if run() else 1
    finally:
        if os.getpid() != original:
            os._exit(_LET_OUT if watch.let_out else code)
        EmbeddedQubes.call = call
    assert code == 0
    return cases


class Rerun(NamedTuple):
    """What is run after a disturbance.

    goal: the machine as it should be then.  before: who was in clear at the very start.
    """

    states: Any
    pillar: dict
    part: str
    goal: dict
    before: set[str]


def problems(cases: Iterable[Case], rerun: Rerun, folder: Path) -> list[str]:
    """What is wrong with the runs after `cases`.

    What was left alike is run once, and all of it by two processes.
    """
    left: dict[bytes, str] = {}
    for case in cases:
        left.setdefault(case.left, case.where)
    with multiprocessing.get_context("fork").Pool(2, _start, (folder, rerun)) as pool:
        found = pool.map(_problem, left, 1)
    return [f"{where}: {what}" for where, what in zip(left.values(), found, strict=True) if what]


def _start(folder: Path, rerun: Rerun) -> None:
    """A process with a machine of its own."""
    global _machine, _rerun
    _rerun = rerun
    _machine = EmbeddedQubes(folder / f"{os.getpid()}.json")
    os.environ["QUBES_VPN_EMBEDDED"] = str(_machine.path)


def _problem(left: bytes) -> str:
    """What is wrong with a dry and a real run on a machine that was left so; "" when nothing is."""
    states, pillar, part, goal, before = _rerun
    put_back(_machine, left)
    dry = states.run(pillar, part, test=True)
    if any(call.write for call in _machine.calls()):
        return "the dry run wrote"
    with Watch(_machine, before) as watch:
        real = states.run(pillar, part)
    if watch.let_out:
        return f"in clear: {watch.let_out}"
    if told := [state.comment for state in real.values() if state.result is not True]:
        return f"refused: {told}"
    if differing := [name for name in real if dry[name].changes != real[name].changes]:
        return f"the dry run told otherwise: {[(dry[name], real[name]) for name in differing]}"
    end = _machine.snapshot()
    if notes := [key for key in end["qubes"]["dom0"]["features"] if key.startswith(_NOTE)]:
        return f"notes are left: {notes}"
    return "" if compared(end) == goal else f"got elsewhere: {_difference(compared(end), goal)}"


def _difference(one: Any, other: Any, where: str = "") -> list[str]:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return [] if one == other else [f"{where}: {one!r}, not {other!r}"]
    pairs = ((key, one.get(key), other.get(key)) for key in {**one, **other})
    return [told for key, a, b in pairs for told in _difference(a, b, f"{where}/{key}")]
