# SPDX-License-Identifier: GPL-2.0-or-later
"""Processor time: of two programs on a shared machine it says more than the time on the clock."""

import resource
import time
from collections.abc import Callable


def of_children(work: Callable[[], object]) -> float:
    """Seconds, user and system, of the processes that `work` starts and waits for."""
    before = _children()
    work()
    return _children() - before


def of_this_process(work: Callable[[], object]) -> float:
    """Seconds, user and system, of `work` itself."""
    start = time.process_time()
    work()
    return time.process_time() - start


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
