# SPDX-License-Identifier: GPL-2.0-or-later
"""The way of README.md once, from the profile to the routed machine, for all tests of it."""

import shutil
import subprocess
from pathlib import Path

import pytest
from readme.document import Document
from readme.dom0 import Dom0, Ran
from readme.shell import sh

_LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", ".*_cache", ".hypothesis")


#: README.md, and the pages that a user goes on to.
PAGES = ("README.md", "docs/using.md", "docs/relays.md", "docs/lab.md")


@pytest.fixture(scope="session")
def readme(checkout: Path) -> Document:
    return Document("".join((checkout / page).read_text(encoding="utf-8") for page in PAGES))


@pytest.fixture(scope="session")
def profile(checkout: Path) -> Path:
    """The provider's profile that becomes `wg-se.conf`."""
    return checkout / "tests/profiles/mullvad-se-mma-wg-001.conf"


@pytest.fixture(scope="session")
def qubes(checkout: Path, profile: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home folders of qubes: `dev` has the checkout, with the provider's profile in it."""
    homes = tmp_path_factory.mktemp("qubes")
    copy = homes / "dev/qubes-vpn-formula"
    shutil.copytree(checkout, copy, ignore=_LEFT_OUT)
    (copy / ".venv").symlink_to(checkout / ".venv")
    shutil.copy(profile, copy / "wg-se.conf")
    return homes


def expect_ready(folder: Path) -> None:
    """Fails where `make` would rebuild the environment, in which this test itself runs."""
    assert sh("make --question venv", folder).returncode == 0, "run `make venv` first"


@pytest.fixture
def ready_checkout(checkout: Path) -> Path:
    """The checkout, in which `make` starts at once."""
    expect_ready(checkout)
    return checkout


@pytest.fixture(scope="session")
def in_checkout(qubes: Path, readme: Document) -> list[subprocess.CompletedProcess]:
    """What the commands of "Make your pillar" did, in the qube's checkout."""
    folder = qubes / "dev/qubes-vpn-formula"
    expect_ready(folder)
    return [sh(line, folder) for line in readme.commands("Make your pillar")]


@pytest.fixture
def fresh_dom0(tmp_path: Path, qubes: Path) -> Dom0:
    """A dom0 with nothing in it."""
    made = Dom0(tmp_path / "dom0", qubes)
    made.skip_without_namespaces()
    return made


@pytest.fixture(scope="session")
def dom0(qubes: Path, in_checkout: list, tmp_path_factory: pytest.TempPathFactory) -> Dom0:
    """The dom0 in which the commands of `installed` have run."""
    made = Dom0(tmp_path_factory.mktemp("dom0"), qubes)
    made.skip_without_namespaces()
    return made


@pytest.fixture(scope="session")
def installed(dom0: Dom0, readme: Document) -> dict[str, Ran]:
    """What the commands of "Install it in dom0" did, by the command."""
    return {line: dom0.run(line) for line in readme.commands("Install it in dom0")}
