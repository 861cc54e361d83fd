# SPDX-License-Identifier: GPL-2.0-or-later
"""The six-qube chain by our states and by Qubes' own qvm.* states: processor time net of Salt's.

Both run in one dom0 with Qubes' own client (see `dom0`), on an embedded Qubes that answers in a
process which is not counted. Needs QUBES_SRC, a folder with checkouts of qubes-core-admin-client,
qubes-mgmt-salt-base and qubes-mgmt-salt-dom0-qvm, and root.
"""

import os
import subprocess
import tempfile
from pathlib import Path

from bench.chain import PILLAR
from bench.dom0 import Dom0
from bench.minion import EMPTY, FORMULA, minion, seconds
from bench.result import Result, ratio
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.embedded.server import serving
from qubes_vpn_formula.masterless import Masterless, Run
from qubes_vpn_formula.paths import formula_root

ROUNDS = 5
#: In each round; what ours takes is little, and so has to be measured more often.
REPEATS = 4
WHAT = "net processor time, six-qube chain, {} run : upstream's qvm states"
GOALS = {"first": round(1 / 5, 3), "second": round(1 / 15, 3)}

_UPSTREAM = Path(__file__).with_name("upstream.sls")
_CHAIN = ("t-vpn", "t-dns", "sys-vpn", "sys-dns", "sys-firewall", "personal", "work")


def results() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            dom0 = Dom0(Path(folder) / "dom0")
        except LookupError as why:
            return [
                Result(WHAT.format(run), None, goal, f"not measured: {why}")
                for run, goal in GOALS.items()
            ]
        ours, empty, theirs = _least(dom0, Path(folder))
    return [
        ratio(WHAT.format(run), goal, [(mine - empty, other - empty)])
        for (run, goal), mine, other in zip(GOALS.items(), ours, theirs, strict=True)
    ]


def _least(dom0: Dom0, folder: Path) -> tuple[list[float], float, list[float]]:
    """The least of all rounds: ours, first and second run; the empty SLS; upstream's.

    Whatever else the machine does can only add to a processor time.
    """
    root = formula_root()
    made = minion(
        folder,
        PILLAR,
        (_UPSTREAM,),
        module_dirs=[str(root / "_modules"), str(dom0.folder / "modules")],
        states_dirs=[str(root / "_states"), str(dom0.folder / "states")],
        utils_dirs=[str(root / "_utils"), str(dom0.folder / "utils")],
    )

    def spent(sls: str) -> float:
        return seconds(lambda: _run(made, dom0, sls))

    rounds = []
    for turn in range(ROUNDS + 1):
        mine, their = (EmbeddedQubes(folder / f"{turn}{whose}", dom0.release) for whose in "mt")
        with serving(dom0.socket, mine):
            first = spent(FORMULA)
            pairs = [(spent(EMPTY), spent(FORMULA)) for _ in range(REPEATS)]
        with serving(dom0.socket, their):
            theirs = [spent(_UPSTREAM.stem), spent(_UPSTREAM.stem)]
        if _chain(mine) != _chain(their):
            raise RuntimeError("bench/upstream.sls does not do what the formula does")
        empty, second = map(min, zip(*pairs, strict=True))
        rounds.append([first, second, empty, *theirs])
    # The first round compiled bytecode.
    *ours, empty, their_first, their_second = map(min, zip(*rounds[1:], strict=True))
    return ours, empty, [their_first, their_second]


def _chain(machine: EmbeddedQubes) -> list:
    """What the qubes of the chain are."""
    qubes = machine.snapshot()["qubes"]
    return [
        (
            name,
            # Whether a value is the default or the same value set is all one.
            machine.call(name, "admin.vm.property.GetAll").replace(
                b"default=True", b"default=False"
            ),
            qubes[name]["features"],
            qubes[name].get("rules"),
        )
        for name in _CHAIN
    ]


def _run(made: Masterless, dom0: Dom0, sls: str) -> Run:
    # Without PYTHONDONTWRITEBYTECODE, or everything would be compiled anew each time.
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        dom0.command(made.command("state.sls", sls)),
        env={**environ, "PYTHONPATH": dom0.path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)
