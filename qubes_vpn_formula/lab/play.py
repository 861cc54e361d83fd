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
from qubes_vpn_formula.lab.evidence import Said, Uplink
from qubes_vpn_formula.lab.killswitches import Killswitch
from qubes_vpn_formula.lab.qube import CommandFailed
from qubes_vpn_formula.lab.result import CLOSED, ERROR, FAILED, LEAK, NOT_RUN, Result
from qubes_vpn_formula.lab.traffic import TrafficError

#: Lines of a result; what is alike in all but time and ports is one line.
_LINES = 8
#: Trouble of the lab's own, whose text says enough.
_TROUBLE = (CommandFailed, TrafficError, CaptureError)


def play(attack: Attack, killswitch: Killswitch, agent: Agent, folder: Path) -> Result:
    """Attacks a killswitch.  folder: where captures go."""
    begin = time.monotonic()
    with Cell(attack, killswitch, agent, folder) as cell:
        trouble = _attacked(cell)
        if isinstance(trouble, NotRun):
            return Result(attack.id, killswitch.name, NOT_RUN, lines=(str(trouble),))
        said, more = _evidence(cell)
        leaks, aside = _sorted(cell, said)
        trouble += more
        return Result(
            attack.id,
            killswitch.name,
            # A leak is one, whatever else went wrong.  Otherwise the lab's own trouble comes before
            # what was found, because it may be the cause.
            LEAK if leaks else ERROR if trouble else FAILED if cell.failures else CLOSED,
            len(leaks),
            len(aside),
            (*_shortened(leaks), *cell.failures, *trouble, *_shortened(aside), *cell.skipped),
            cell.sent,
            sum(one.frames for one in said),
            round(time.monotonic() - begin, 2),
            tuple(one.file.name for one in cell.evidence if one.file),
        )


def _attacked(cell: Cell) -> list[str] | NotRun:
    """Runs the attack; the lab's own trouble with it, or why it was not run."""
    try:
        cell.attack.run(cell)
    except NotRun as reason:
        return reason
    except NoService as problem:
        cell.failures.append(str(problem))
        return []
    except _TROUBLE as problem:
        return [f"{type(problem).__name__}: {problem}"]
    except Exception:  # a bug in the attack is its cell's result and nobody else's
        return [traceback.format_exc(limit=-3)]
    if not cell.sent and not cell.failures and cell.attack.counts != ("WORK",):
        return ["nothing was sent"]
    return []


def _evidence(cell: Cell) -> tuple[list[Said], list[str]]:
    """What all evidence says, and why it may not be complete."""
    try:
        said = cell.end()
    except _TROUBLE as problem:
        return [], [f"{type(problem).__name__}: {problem}"]
    return said, [one.trouble for one in said if one.trouble]


def _sorted(cell: Cell, said: list[Said]) -> tuple[list[str], list[str]]:
    """What the attack's row counts of what leaked, and the rest."""
    leaks: list[str] = []
    aside: list[str] = []
    for evidence, one in zip(cell.evidence, said, strict=False):
        counted = not isinstance(evidence, Uplink) or {"OUT", "STATE"} & {*cell.attack.counts}
        (leaks if counted else aside).extend(one.lines)
        aside.extend(one.aside)
    return leaks, aside


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
