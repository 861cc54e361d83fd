# SPDX-License-Identifier: GPL-2.0-or-later
"""Labs for tests: what a test builds ends with it."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from qubes_vpn_formula.lab.chains import Chain
from qubes_vpn_formula.lab.killswitches import Killswitch
from qubes_vpn_formula.lab.machine import Lab
from qubes_vpn_formula.lab.qube import Qube

#: Chain and killswitch -> a lab where nothing has booted yet.
MakeLab = Callable[..., Lab]


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skips what needs root."""
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")


@pytest.fixture
def make_lab(namespaces: None) -> Iterator[MakeLab]:
    """Makes labs that end with the test."""
    with ExitStack() as stack:

        def make(chain: Chain, killswitch: Killswitch | None = None) -> Lab:
            return stack.enter_context(Lab(chain, killswitch))

        yield make


@pytest.fixture
def qube(namespaces: None) -> Iterator[Qube]:
    """A qube without any link."""
    with Qube("alone") as one:
        yield one
