# SPDX-License-Identifier: GPL-2.0-or-later
"""Every broken pillar of ``tests/bad/pillars``: its exact problems, each with line, key and fix.

``NAME.expected`` holds what a user sees of ``NAME.yml``, one problem a line.
"""

from pathlib import Path

import pytest
import yaml

import qubes_vpn_check
from qubes_vpn_formula import pillarfile
from qubes_vpn_formula.errors import UserError

FOLDER = Path(__file__).parent.parent / "bad" / "pillars"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yml"))
#: What is wrong in these is the YAML: dom0's Salt refuses it by itself (two equal keys as well).
YAML_IS_WRONG = {
    "empty",
    "endpoint-ipv6-unquoted",
    "jinja",
    "jinja-quoted",
    "key-twice",
    "no-qubes-vpn",
    "tab",
    "yaml-syntax",
    "wildcard-without-quotes",
}


def expected(name):
    """The lines that belong to ``NAME.yml``."""
    return (FOLDER / f"{name}.expected").read_text(encoding="utf-8").splitlines()


def test_none_is_left_over():
    assert sorted(path.stem for path in FOLDER.glob("*.expected")) == NAMES
    assert len(NAMES) >= 40


@pytest.mark.parametrize("name", NAMES)
def test_the_command_line_says(name, monkeypatch):
    """With file and line, in the order of the file."""
    monkeypatch.chdir(FOLDER)
    file = f"{name}.yml"
    try:
        problems = pillarfile.read(file).problems()
    except UserError as error:
        said = [str(error)]
    else:
        said = [located.problem.text(f"{file}:{located.line}") for located in problems]
    assert said == expected(name)


@pytest.mark.parametrize("name", sorted(set(NAMES) - YAML_IS_WRONG))
def test_dom0_says_the_same(name):
    """Salt hands dom0 the data without lines: the same problems, `pillar:` instead of FILE:LINE."""
    document = yaml.safe_load((FOLDER / f"{name}.yml").read_text(encoding="utf-8"))["qubes_vpn"]
    said = [problem.text() for problem in qubes_vpn_check.check(document)]
    assert sorted(said) == sorted("pillar: " + line.split(": ", 1)[1] for line in expected(name))
