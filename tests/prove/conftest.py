# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel for the model to be compared with."""

import os
from collections.abc import Iterator

import pytest
from prove_bench import Bench


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """Skips what needs root."""
    if os.geteuid() != 0:
        pytest.skip("namespaces need root")
    with Bench() as one:
        yield one
