# SPDX-License-Identifier: GPL-2.0-or-later
"""The tree passes what pre-commit runs."""

import os
import subprocess
import sys


def test_lint(checkout, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "run", "--all-files", "--color=never"],
        cwd=checkout,
        env={**os.environ, "PRE_COMMIT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
