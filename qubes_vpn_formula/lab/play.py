# SPDX-License-Identifier: GPL-2.0-or-later
"""One cell from its beginning to its result; never raises for what the cell did."""

import time
import traceback
from collections import Counter
from pathlib import Path

from qubes_vpn_formula.lab.agent import Agent
from qubes_vpn_formula.lab.attacks import Attack
from qubes_vpn_formula.lab.capture import CaptureError
from qubes_vpn_formula.lab.cell import Cell, NoService, NotRun
from qubes_vpn_formula.lab.evidence import Said
from qubes_vpn_formula.lab.killswitches import Killswitch
from qubes_vpn_formula.lab.qube import CommandFailed
from qubes_vpn_formula.lab.result import CLOSED, ERROR, FAILED, LEAK, NOT_RUN, Result
from qubes_vpn_formula.lab.traffic import TrafficError

#: Lines of a result; what is alike in all but time and ports is one line.
_LINES = 12
#: Trouble of the lab's own, whose text says enough.
_TROUBLE = (CommandFailed, TrafficError, CaptureError)


def play(attack: Attack, killswitch: Killswitch, agent: Agent, folder: Path) -> Result:
    """Attacks a killswitch.  folder: where captures go."""
    begin = time.monotonic()
    with Cell(attack, killswitch, agent, folder) as cell:
        outcome, lines, said = _attacked(cell)
        leaks = [line for one in said for line in one.lines]
        return Result(
            attack.id,
            killswitch.name,
            outcome,
            len(leaks),
            (*_shortened(leaks), *lines),
            cell.sent,
            sum(one.frames for one in said),
            round(time.monotonic() - begin, 2),
            tuple(one.file.name for one in cell.evidence if one.file),
        )


def _attacked(cell: Cell) -> tuple[str, list[str], list[Said]]:
    """The outcome, why, and all evidence.

    A leak is a leak, whatever else went wrong; otherwise the lab's own trouble comes before what
    was found, because it may be the cause.
    """
    trouble: list[str] = []
    try:
        cell.attack.run(cell)
    except NotRun as reason:
        return NOT_RUN, [str(reason)], []
    except NoService as problem:
        cell.failures.append(str(problem))
    except _TROUBLE as problem:
        trouble.append(f"{type(problem).__name__}: {problem}")
    except Exception:  # a bug in the attack is its cell's result and nobody else's
        trouble.append(traceback.format_exc(limit=-3))
    try:
        said = cell.end()
    except _TROUBLE as problem:
        return ERROR, [*trouble, f"{type(problem).__name__}: {problem}"], []
    trouble += [one.trouble for one in said if one.trouble]
    if not cell.sent and "WORK" not in cell.attack.counts and not cell.failures:
        trouble.append("nothing was sent")
    if any(one.lines for one in said):
        return LEAK, [*cell.failures, *trouble], said
    if trouble:
        return ERROR, [*trouble, *cell.failures], said
    return (FAILED if cell.failures else CLOSED), cell.failures, said


def _shortened(lines: list[str]) -> list[str]:
    """The first of each phase and kind first come, with how many there were."""
    kinds = Counter(map(_kind, lines))
    firsts = {_kind(line): line for line in reversed(lines)}
    shown = [
        f"{line} ({kinds[kind]} times)" if kinds[kind] > 1 else line
        for kind, line in reversed(firsts.items())
    ]
    more = len(shown) - _LINES
    return [*shown[:_LINES], f"and {more} other kinds"] if more > 0 else shown


def _kind(line: str) -> str:
    """A line without what differs between packets of one kind: numbers of ports and bytes."""
    words = [word.rpartition(":")[0] if _has_port(word) else word for word in line.split(" ")]
    return " ".join(word for word in words if not word.isdigit())


def _has_port(word: str) -> bool:
    return word.rpartition(":")[2].rstrip(",").isdigit() and ("." in word or "]" in word)
