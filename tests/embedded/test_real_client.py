# SPDX-License-Identifier: GPL-2.0-or-later
"""The real client on the server does, and calls, what our front does. Needs QUBES_SRC."""

import json
import os
import subprocess
import sys
from pathlib import Path

import client_cases
import pytest

from qubes_vpn_formula.embedded import front
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.embedded.server import serving

HERE = Path(__file__).parent


def run_case(environment, *arguments):
    """What a case saw."""
    command = [sys.executable, HERE / "run_case.py", *arguments]
    child = subprocess.run(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True
    )
    return json.loads(child.stdout)


def settings_of(machine):
    """The state but for volumes, which carry times."""
    state = machine.snapshot()
    for qube in state["qubes"].values():
        qube.pop("volumes", None)
    return state["globals"], state["qubes"]


@pytest.mark.parametrize("case", client_cases.CASES)
def test_the_front_is_as_the_real_client(real_client, real_release, tmp_path, case):
    if case.endswith("_notes") and real_release == "4.2":
        pytest.skip("4.2 has no notes")
    ours = EmbeddedQubes(tmp_path / "ours.json", real_release)
    theirs = EmbeddedQubes(tmp_path / "theirs.json", real_release)
    seen = run_case(front.environ(ours.path), case)
    with serving(tmp_path / "qubesd.sock", theirs):
        environment = {"PYTHONPATH": str(real_client), "PYTHONDONTWRITEBYTECODE": "1"}
        assert run_case(environment, case, tmp_path / "qubesd.sock") == seen
    assert theirs.calls() == ours.calls()
    assert settings_of(theirs) == settings_of(ours)
