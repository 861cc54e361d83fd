# SPDX-License-Identifier: GPL-2.0-or-later
"""What was once seen has a test that is still there, and that `make lab-boot` runs."""

import re
import subprocess
import sys
from pathlib import Path

import findings

_HERE = Path(__file__).parent


def test_each_finding_has_a_scenario_and_lab_boot_runs_it(checkout):
    recipe = (checkout / "Makefile").read_text().partition("\nlab-boot:")[2]
    chosen = re.search(r'-m "([^"]+)" tests/booted\n', recipe)[1]
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", chosen, str(_HERE)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    ids = re.findall(r"(\w+\.py::\w+)", done.stdout)
    assert findings.SHOWN - set(ids) == set()


def test_those_of_the_emulated_machine_are_there():
    for names in findings.IN_THE_EMULATED_MACHINE.values():
        for one in names:
            file, _, function = one.partition("::")
            assert f"\ndef {function}(" in (_HERE / file).read_text(encoding="utf-8")
