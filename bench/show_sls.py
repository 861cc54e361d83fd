# SPDX-License-Identifier: GPL-2.0-or-later
"""What the formula adds to the least that `state.show_sls` costs, in processor time."""

import tempfile
from pathlib import Path

from bench.minion import EMPTY, FORMULA, minion, seconds
from bench.result import Result, ratio
from qubes_vpn_formula.paths import formula_root

GOAL = 1.15
PAIRS = 11


def results() -> list[Result]:
    pillar = (formula_root() / "pillar.example").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = minion(folder, pillar)

        def show(sls: str) -> float:
            machine = folder / "machine.json"
            return seconds(lambda: made.salt_call("state.show_sls", sls, machine=machine))

        pairs = []
        for turn in range(PAIRS + 1):
            # Each goes first in turn, so that what slows the machine down meets both alike.
            order = [FORMULA, EMPTY][:: 1 if turn % 2 else -1]
            times = {sls: show(sls) for sls in order}
            pairs.append((times[FORMULA], times[EMPTY]))
    # The first pair compiled bytecode and filled caches.
    return [ratio(f"show_sls {FORMULA} : empty SLS, same pillar", GOAL, pairs[1:])]
