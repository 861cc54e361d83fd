# SPDX-License-Identifier: GPL-2.0-or-later
"""A masterless minion that has an SLS with nothing in it besides the formula's: Salt's floor."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import processor
from qubes_vpn_formula.masterless import Masterless, Run
from qubes_vpn_formula.paths import formula_root

EMPTY = "empty"
FORMULA = "qubes.network.sys-vpn"
#: What `salt-call state.sls` answers when an SLS has no state, as the empty one.
_NO_STATE = 2


def minion(folder: Path, pillar: str, more_sls: tuple[Path, ...] = (), **more: Any) -> Masterless:
    """Prepares one in `folder` with `pillar` (YAML), and `more` on top of its configuration."""
    roots = folder / "srv"
    roots.mkdir()
    (roots / f"{EMPTY}.sls").write_text("{}\n")
    for sls in more_sls:
        (roots / sls.name).symlink_to(sls)
    made = Masterless(folder / "minion")
    made.prepare(file_roots={"base": [str(formula_root() / "salt"), str(roots)]}, **more)
    made.set_pillar(pillar)
    return made


def seconds(call: Callable[[], Run]) -> float:
    """Processor time of a `salt-call`. RuntimeError when it fails."""
    runs: list[Run] = []
    spent = processor.of_children(lambda: runs.append(call()))
    if runs[0].code not in (0, _NO_STATE):
        raise RuntimeError(runs[0].stdout + runs[0].stderr)
    return spent


def state_sls(made: Masterless, sls: str, machine: str | os.PathLike) -> float:
    """Processor time of `state.sls SLS` on the embedded Qubes of state file `machine`."""
    return seconds(lambda: made.salt_call("state.sls", sls, machine=machine))
