# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes that share the work on a fleet, and a bar that says how far they are."""

import contextlib
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

from qubes_vpn_formula.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
#: Items that each process may have before the first result is taken.
_AHEAD = 16
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Workers:
    """Processes to share work with.  With *jobs* 1 this process does it all."""

    jobs: int
    pool: ProcessPoolExecutor | None = None

    def map(
        self, what: str, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[Result]:
        """The results of *work*, in the items' order, with a bar called *what* on a terminal."""
        results = _ahead(self.pool, self.jobs, work, items) if self.pool else map(work, items)
        with _bar(what, len(items)) as step:
            try:
                for result in results:
                    step()
                    yield result
            except BrokenProcessPool:
                what = "a process was ended from outside, perhaps for want of memory"
                raise UserError(what, "Run it again, with a smaller --jobs.") from None


def _ahead(
    pool: ProcessPoolExecutor, jobs: int, work: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Result]:
    """The results, in order.  Some at a time: what is handed out is not easily taken back."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) == _AHEAD * jobs:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextlib.contextmanager
def workers(jobs: int) -> Iterator[Workers]:
    """*jobs* processes.  What is still to do at an exception, such as Ctrl-C, is left undone."""
    if jobs < 2:
        yield Workers(1)
        return
    with ProcessPoolExecutor(jobs, initializer=_begin, initargs=(os.getpid(),)) as pool:
        # Now, while there is no thread, such as a bar's: processes are forked.
        pool.submit(int).result()
        try:
            yield Workers(jobs, pool)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _begin(parent: int) -> None:
    """Ctrl-C ends a worker at once and without a word; so does the end of the first process.

    A worker of one that was killed would wait for work for ever: it has both ends of its own pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    if not (sys.stderr.isatty() and total):
        yield lambda: None
        return
    from rich.console import Console  # not loaded in pipes and scripts
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = TextColumn(f"{what:10}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
