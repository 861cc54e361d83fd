# SPDX-License-Identifier: GPL-2.0-or-later
"""A qube's ``credentials/``, and a watch on what reading it does."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings
from keyfile import credentials

settings.register_profile(
    "keyfile", deadline=None, max_examples=40, suppress_health_check=list(HealthCheck)
)
settings.load_profile("keyfile")

_WATCH: list[list[str]] = []


def _seen(event: str, args: tuple) -> None:
    """Writing, executing, and asking the network."""
    if not _WATCH:
        return
    forbidden = event.startswith(
        ("subprocess.", "os.exec", "os.spawn", "os.posix_spawn", "socket.")
    )
    forbidden |= event in (
        "os.system",
        "os.fork",
        "os.forkpty",
        "os.remove",
        "os.rename",
        "os.mkdir",
    )
    forbidden |= event in ("os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate")
    if event == "open" and isinstance(args[2], int):
        forbidden |= bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if forbidden:
        _WATCH[-1].append(f"{event} {args!r}")


sys.addaudithook(_seen)


@contextmanager
def reading_only() -> Iterator[None]:
    """Fails when what is done inside writes, executes or asks the network for anything."""
    _WATCH.append([])
    try:
        yield
    finally:
        seen = _WATCH.pop()
    assert seen == []


@pytest.fixture
def folder(tmp_path):
    return credentials.folder(tmp_path)
