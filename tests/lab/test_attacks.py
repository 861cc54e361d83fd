# SPDX-License-Identifier: GPL-2.0-or-later
"""R41, R43, R44, R90: the fast attacks of docs/attacks.md on ours, and on mutants to prove them.

The others are `qubes-vpn lab`'s, which `make lab` runs whole.
"""

import re

import pytest

from qubes_vpn_formula.lab import attacks, matrix
from qubes_vpn_formula.lab.report import caught
from qubes_vpn_formula.lab.result import NOT_RUN

FAST = [one for one in attacks.all() if one.fast]
OURS = [matrix.Task(one.id, "ours") for one in FAST]
PROOF = matrix.proof(FAST)
ROW = re.compile(r"\| ([A-Z]\d\d) \| (fast )?\| .+ \| ([^|]+) \| [^|]+ \|")


@pytest.fixture(scope="module")
def results(request, namespaces, tmp_path_factory):
    """The results of all cells that this session has selected, by their task, two at a time."""
    wanted = [
        item.callspec.params["task"]
        for item in request.session.items
        if "results" in getattr(item, "fixturenames", ())
    ]
    setting = matrix.Setting(tmp_path_factory.mktemp("captures"))
    return {(one.attack, one.killswitch): one for one in matrix.run(wanted, setting)}


# The first of these waits for all cells.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("task", OURS, ids=lambda task: task.attack)
def test_ours_withstands(task, results):
    result = results[task]
    if result.outcome == NOT_RUN:
        pytest.skip(result.lines[0])
    assert result.fine, "\n".join([str(result), *result.lines])


@pytest.mark.timeout(900)
@pytest.mark.parametrize("task", PROOF, ids="-".join)
def test_mutant_is_found_broken(task, results):
    result = results[task]
    if result.outcome == NOT_RUN:
        pytest.skip(result.lines[0])
    assert caught(result, attacks.named(task.attack).counts), "\n".join(
        [str(result), *result.lines]
    )


def test_attacks_are_those_of_the_plan(checkout):
    plan = {}
    for line in (checkout / "docs/attacks.md").read_text("utf-8").splitlines():
        if row := ROW.fullmatch(line):
            plan[row[1]] = bool(row[2])
    assert plan, "no row was understood"
    assert {one.id: one.fast for one in attacks.all()} == plan
