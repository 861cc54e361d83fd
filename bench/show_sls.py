# SPDX-License-Identifier: GPL-2.0-or-later
"""What the formula adds to the least that `state.show_sls` costs."""

import tempfile
import time
from pathlib import Path

from bench.result import Result, ratio
from qubes_vpn_formula.masterless import Masterless
from qubes_vpn_formula.paths import formula_root

GOAL = 1.15
PAIRS = 11


def results() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        minion = _minion(Path(folder))
        for sls in ("empty", "qubes.network.sys-vpn"):  # bytecode and caches
            _seconds(minion, sls)
        pairs = []
        for turn in range(PAIRS):
            # Each goes first in turn, so that what slows the machine down meets both alike.
            order = ["qubes.network.sys-vpn", "empty"][:: 1 if turn % 2 else -1]
            seconds = {sls: _seconds(minion, sls) for sls in order}
            pairs.append((seconds["qubes.network.sys-vpn"], seconds["empty"]))
    return [ratio("show_sls qubes.network.sys-vpn : empty SLS, same pillar", GOAL, pairs)]


def _minion(folder: Path) -> Masterless:
    root = formula_root()
    (folder / "srv").mkdir()
    (folder / "srv/empty.sls").write_text("{}\n")
    minion = Masterless(folder / "minion")
    minion.prepare(file_roots={"base": [str(root / "salt"), str(folder / "srv")]})
    minion.set_pillar((root / "pillar.example").read_text(encoding="utf-8"))
    return minion


def _seconds(minion: Masterless, sls: str) -> float:
    start = time.perf_counter()
    run = minion.salt_call("state.show_sls", sls, machine=minion.folder / "machine.json")
    if run.code:
        raise RuntimeError(run.stdout + run.stderr)
    return time.perf_counter() - start
