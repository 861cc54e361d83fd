# SPDX-License-Identifier: GPL-2.0-or-later
"""Booted qubes under a kernel that has what this machine's may not: its own WireGuard (R31, R34).

A virtual machine, emulated, with Debian 13's kernel and this machine's files; the booted lab runs
in it as it does here, several times slower.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from tunnelled import template

from qubes_vpn_formula.lab import debian
from qubes_vpn_formula.lab.booted.machine import Booted
from qubes_vpn_formula.lab.kernel import here, image, vm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

TESTS = Path(__file__).with_name("test_wireguard_kernel.py")
PYTEST = [sys.executable, "-m", "pytest", "-m", "slow", "-p", "no:cacheprovider", str(TESTS)]


def test_networkmanager_with_the_kernels_wireguard(lab: Booted, tmp_path: Path) -> None:
    """Every test of `test_wireguard_kernel.py` runs there, and passes."""
    if why := vm.missing():
        pytest.skip(why)
    template(lab)  # kept on disk: there is no network in there to make it by
    try:
        made = image.build("trixie", here.MACHINE)
    except debian.NotReachable as error:
        pytest.skip(f"Debian 13's kernel cannot be had: {error}")
    done = here.run(made, [*PYTEST, "-rp"], tmp_path, 5000)
    assert done.returncode == 0, done.stdout
    passed = [line for line in done.stdout.splitlines() if line.startswith("PASSED ")]
    assert {line.partition("::")[2] for line in passed} == _names()


def _names() -> set[str]:
    """The tests there are, with their parameters."""
    words = [*PYTEST, "--collect-only", "-q"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return {line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line}
