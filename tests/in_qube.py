# SPDX-License-Identifier: GPL-2.0-or-later
"""This process's own functions, run inside one of the lab's qubes."""

import ctypes
import os
import pickle
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qubes_vpn_formula.lab.qube import Qube

_LIBC = ctypes.CDLL(None, use_errno=True)


def skip_where_impossible() -> None:
    """Skips the test where there can be no qube, or no rules in it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for namespaces of its own")
    for program in ("nft", "unshare", "nsenter", "conntrack"):
        if not shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin"):
            pytest.skip(f"needs {program}")


def run_in(qube: Qube, function: Callable[..., Any], *args: Any, uid: int = 0) -> Any:
    """What `function(*args)` returns in a fork that has the qube's files and network.

    uid: the user that it runs as. AssertionError with the traceback when it raised.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = (True, _inside(qube, function, args, uid))
        except BaseException:
            answer = (False, traceback.format_exc())
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answered = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert answered, f"ended with {code} and said nothing"
    done, answer = pickle.loads(answered)  # noqa: S301 - from our own fork
    assert done, answer
    return answer


def _inside(qube: Qube, function: Callable[..., Any], args: tuple, uid: int) -> Any:
    # That of processes counts for what is started: NetworkManager obeys nobody whom it cannot see.
    # First, because after that of mounts this /proc is out of reach.
    for kind in ("pid", "net", "mnt"):
        with Path(f"/proc/{qube.pid}/ns/{kind}").open() as namespace:
            if _LIBC.setns(namespace.fileno(), 0):
                raise OSError(ctypes.get_errno(), f"setns {kind}")
    os.chdir("/")
    if uid:
        os.setgroups([])
        os.setresuid(uid, uid, uid)
    return function(*args)
