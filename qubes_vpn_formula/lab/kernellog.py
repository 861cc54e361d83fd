# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's log, which one kernel's qubes share: whether it has what their rules note."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Whether the kernel logs for other network namespaces than its first.
_ALL = Path("/proc/sys/net/netfilter/nf_log_all_netns")


@contextmanager
def of_all() -> Iterator[bool]:
    """The kernel logs for all qubes, for a while and one test; yields whether it can."""
    try:
        setting = _ALL.open("r+")
    except OSError:
        yield False
        return
    with setting:
        fcntl.flock(setting, fcntl.LOCK_EX)
        before = setting.read()
        _ALL.write_text("1")
        try:
            yield True
        finally:
            _ALL.write_text(before)
