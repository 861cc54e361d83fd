# SPDX-License-Identifier: GPL-2.0-or-later
"""Many cells in several processes.

A worker that dies loses its cell and no other.  When this process ends, however it ends, so do the
workers, and with them their qubes.
"""

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

from qubes_vpn_formula.lab import attacks, guides, killswitches, mutants
from qubes_vpn_formula.lab.agent import Agent
from qubes_vpn_formula.lab.agent.real import Real
from qubes_vpn_formula.lab.agent.restated import Restated
from qubes_vpn_formula.lab.attacks import Attack
from qubes_vpn_formula.lab.killswitches import Killswitch
from qubes_vpn_formula.lab.play import play
from qubes_vpn_formula.lab.result import ERROR, Result

#: Seconds for a cell; the longest take a tenth of that on a machine of their own.
_LIMIT = 180


class Task(NamedTuple):
    """A cell to be run: an attack's id and a killswitch's name."""

    attack: str
    killswitch: str


class TooLong(Exception):
    """A cell has not ended in its time."""


@dataclass(frozen=True)
class Setting:
    """What all cells of a run share.

    folder: for captures.  source: a checkout of qubes-core-agent-linux whose scripts are run; None:
    our restatement of them.
    """

    folder: Path
    source: Path | None = None

    def agent(self) -> Agent:
        """A new agent: it remembers what it did in which qube."""
        return Real(self.source) if self.source else Restated()


def columns() -> dict[str, Killswitch]:
    """Every killswitch by its name: ours, none, the guides', our mutants."""
    every = [killswitches.Ours(), killswitches.Absent(), *guides.all(), *mutants.all()]
    return {one.name: one for one in every}


def compared() -> list[str]:
    """The names of those that a report compares: ours, none, the guides'."""
    mutant = {one.name for one in mutants.all()}
    return [name for name in columns() if name not in mutant]


def proof(chosen: Iterable[Attack]) -> list[Task]:
    """The cells that prove the attacks: each on the mutants that it must find broken."""
    return [Task(one.id, name) for one in chosen for name in one.mutants]


def run(tasks: Iterable[Task], setting: Setting, jobs: int = 2) -> Iterator[Result]:
    """Runs the cells, and yields results in the order in which they are there.

    jobs: how many at a time.  When the iterator is closed, what runs is ended.
    """
    left = iter(list(tasks))
    workers = [_Worker(setting) for _ in range(jobs)]
    try:
        busy = {worker.line: worker for worker in workers if worker.takes(next(left, None))}
        while busy:
            for line in wait(list(busy)):
                worker = busy.pop(line)
                yield worker.result()
                if worker.lost:
                    workers.remove(worker)
                    worker = _Worker(setting)
                    workers.append(worker)
                if worker.takes(next(left, None)):
                    busy[worker.line] = worker
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process that runs one cell after the other."""

    def __init__(self, setting: Setting) -> None:
        # A fresh process: a fork would hold the other workers' lines, which then never end.
        context = multiprocessing.get_context("spawn")
        self.line, its = context.Pipe()
        self.lost = False
        self._task: Task | None = None
        self._process = context.Process(target=_work, args=(its, setting), daemon=True)
        self._process.start()
        its.close()

    def takes(self, task: Task | None) -> bool:
        """Gives it a cell; False when there is none."""
        self._task = task
        if task:
            self.line.send(task)
        return task is not None

    def result(self) -> Result:
        """The cell's result, which is there, or what became of the worker instead."""
        try:
            return self.line.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            self.lost = True
            code = self._process.exitcode
            return Result(*self._task, ERROR, lines=(f"the worker ended with exit code {code}",))

    def end(self) -> None:
        """Ends it at once; its qubes end with it."""
        self.line.close()
        self._process.terminate()
        self._process.join()


def _work(line: Connection, setting: Setting) -> None:
    """A worker's life: until the line is closed at its other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us
    signal.signal(signal.SIGALRM, _too_long)
    known = columns()
    while True:
        try:
            task = line.recv()
            result = _timed(task, known[task.killswitch], setting)
            line.send(result)
        except (EOFError, BrokenPipeError):
            return


def _timed(task: Task, killswitch: Killswitch, setting: Setting) -> Result:
    signal.alarm(_LIMIT)
    try:
        return play(attacks.named(task.attack), killswitch, setting.agent(), setting.folder)
    except TooLong:
        return Result(*task, ERROR, lines=(f"not done after {_LIMIT} seconds",))
    finally:
        signal.alarm(0)


def _too_long(*_: object) -> None:
    raise TooLong
