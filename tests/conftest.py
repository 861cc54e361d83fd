# SPDX-License-Identifier: GPL-2.0-or-later
"""What all tests share: the checkout and a fresh embedded Qubes."""

from pathlib import Path

import pytest

from qubes_vpn_formula.embedded.calls import Call
from qubes_vpn_formula.embedded.machine import EmbeddedQubes


class Machine(EmbeddedQubes):
    """An embedded Qubes that a test asks about its calls."""

    def writes(self) -> list[Call]:
        """The calls that change the machine, or may."""
        return [call for call in self.calls() if call.write]


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The project's top folder."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def pillar_example(checkout: Path) -> str:
    """The text of the pillar that users start from."""
    return (checkout / "pillar.example").read_text(encoding="utf-8")


@pytest.fixture
def release() -> str:
    """The Qubes release; a test module that wants others parametrizes this."""
    return "4.3"


@pytest.fixture
def embedded(tmp_path: Path, release: str) -> Machine:
    """A fresh embedded Qubes with an empty call log."""
    return Machine(tmp_path / "qubes.json", release)
