# SPDX-License-Identifier: GPL-2.0-or-later
"""The code is valid on the oldest and the newest Python that runs it: dom0, Debian 13 templates."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

COMPILE = """
import pathlib, sys, warnings
warnings.simplefilter("error")
for name in sys.argv[1:]:
    compile(pathlib.Path(name).read_bytes(), name, "exec")
"""


@pytest.mark.parametrize("version", ["3.11", "3.13"])
def test_syntax(version, checkout):
    python = _find(version)
    if python is None:
        pytest.skip(f"python{version} is not on this machine, so its syntax was not checked")
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=checkout, capture_output=True, text=True, check=True
    )
    checked = subprocess.run(
        [python, "-c", COMPILE, *listed.stdout.split()],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def _find(version: str) -> str | None:
    """A Python of that version that starts, on PATH or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python{version}"), *pyenv.glob(f"versions/{version}.*/bin/python")]
    for python in filter(None, candidates):
        # A version manager's command is there also for versions that it would not start.
        if subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0:
            return str(python)
    return None
