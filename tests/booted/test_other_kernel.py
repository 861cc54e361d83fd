# SPDX-License-Identifier: GPL-2.0-or-later
"""Booted qubes under a kernel that has what this machine's may not: its own WireGuard (R31, R34).

A virtual machine, emulated, with Debian 13's kernel and this machine's files; the booted lab runs
in it as it does here, several times slower.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tunnelled import template

from qubes_vpn_formula.lab import debian
from qubes_vpn_formula.lab.booted import formula
from qubes_vpn_formula.lab.kernel import here, image, vm
from qubes_vpn_formula.lab.nameservers import Nameservers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

PYTEST = [sys.executable, "-m", "pytest", "-m", "slow or not slow", "-p", "no:cacheprovider"]
#: Of `simple.WireGuard`: what decides on the packages of its template.
PILLAR = {
    "topology": "simple",
    "tunnels": {
        "sys-vpn": {
            "kind": "wireguard",
            "template": "t-kept",
            "profile": "one.conf",
            "endpoints": ["198.51.100.1:51821/udp"],
        }
    },
}
#: Those that need that kernel, and one that sees what it writes into a booted qube's journal.
TESTS = ("test_wireguard_kernel.py", "test_verify_wireguard.py", "test_drops_booted.py")


@pytest.mark.parametrize("name", TESTS)
def test_booted_qubes_under_it(new_lab: Any, tmp_path: Path, name: str) -> None:
    """Every test of these files runs there, and passes."""
    if why := vm.missing():
        pytest.skip(why)
    # Kept on disk: there is no network in there to make them by.
    for folder in ("salt", "names", "shared"):
        (tmp_path / folder).mkdir()
    with new_lab() as lab:
        template(lab)
        formula.template(lab, "t-kept", PILLAR, tmp_path / "salt")
        Nameservers(tmp_path / "names", lab.internet)
    words = [*PYTEST, str(Path(__file__).with_name(name))]
    try:
        made = image.build("trixie", here.MACHINE)
    except debian.NotReachable as error:
        pytest.skip(f"Debian 13's kernel cannot be had: {error}")
    done = here.run(made, [*words, "-rp"], tmp_path / "shared", 5000)
    assert done.returncode == 0, done.stdout
    passed = [line for line in done.stdout.splitlines() if line.startswith("PASSED ")]
    assert {line.partition("::")[2] for line in passed} == _names(words)


def _names(pytest_words: list[str]) -> set[str]:
    """The tests there are, with their parameters."""
    words = [*pytest_words, "--collect-only", "-q"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return {line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line}
