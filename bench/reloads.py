# SPDX-License-Identifier: GPL-2.0-or-later
"""Loading the rules again under traffic: what gets out, and what standing flows lose.

The lab's own attacks, because they come with the captures and the oracle that judge them.
"""

import tempfile
from pathlib import Path

from bench.result import Result
from qubes_vpn_formula.lab import attacks
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.matrix import Setting
from qubes_vpn_formula.lab.play import play
from qubes_vpn_formula.lab.result import CLOSED, LEAK


def results() -> list[Result]:
    return [
        _result("L01", "packets let out by 100 loads during floods"),
        _result("W03", "standing flows that lose a packet in 20 loads"),
    ]


def _result(attack: str, what: str) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(Path(folder))
        found = play(attacks.named(attack), Ours(), setting.agent(), setting.folder)
    counts = {CLOSED: 0, LEAK: found.leaks}
    # Whatever is neither is one finding in each line, or a trouble of the lab's own: a goal missed.
    value = counts.get(found.outcome, len(found.lines)) + found.aside
    return Result(what, value, 0, found.outcome)
