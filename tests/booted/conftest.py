# SPDX-License-Identifier: GPL-2.0-or-later
"""Booted qubes for tests (layer L2 of the lab).  What a test starts ends with it."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import findings
import pytest

from qubes_vpn_formula.lab import debian
from qubes_vpn_formula.lab.booted.machine import Booted, hindrance

_HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test may have to build the root, and installs packages."""
    for item in items:
        if item.path.parent != _HERE:
            continue
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))
        if findings.name(item) in findings.SHOWN:
            item.add_marker(pytest.mark.finding)


@contextmanager
def _new() -> Iterator[Booted]:
    """A machine without any qube yet.

    Skips, and says why, where nothing can be booted; under CI that is a failure.
    """
    if why := hindrance():
        _cannot(why)
    try:
        booted = Booted()
    except debian.NotReachable as error:
        _cannot(f"Debian 13 cannot be had: {error}")
    with booted:
        yield booted


@pytest.fixture(scope="module")
def lab() -> Iterator[Booted]:
    """One for a module."""
    with _new() as booted:
        yield booted


@pytest.fixture(scope="session")
def new_lab() -> Callable[[], AbstractContextManager[Booted]]:
    """For a module that needs several."""
    return _new


def _cannot(why: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"no qube can be booted: {why}")
    pytest.skip(f"no qube can be booted: {why}")
