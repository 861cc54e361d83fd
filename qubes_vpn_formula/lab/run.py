# SPDX-License-Identifier: GPL-2.0-or-later
"""A run of the lab, with its progress on a terminal, and what it found."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from qubes_vpn_formula.lab import matrix, programs, report
from qubes_vpn_formula.lab.attacks import Attack
from qubes_vpn_formula.lab.killswitches import Killswitch
from qubes_vpn_formula.lab.matrix import Setting, Task
from qubes_vpn_formula.lab.result import CLOSED, NOT_RUN, Result

_JUDGED = "ours"


class Run:
    """Attacks on killswitches.

    proof: whether also on the mutants that each must find broken.  source: a checkout of
    qubes-core-agent-linux, whose scripts are run; None: our restatement.  folder: for all files.
    results: what is there.  interrupted: whether Ctrl-C ended it.  seconds: how long it took.
    """

    def __init__(
        self,
        attacks: Sequence[Attack],
        columns: Mapping[str, Killswitch],
        proof: bool,
        source: Path | None,
        folder: Path,
    ) -> None:
        self._attacks, self._columns, self._folder, self._source = attacks, columns, folder, source
        self._proof = matrix.proof(attacks) if proof else []
        self.results: list[Result] = []
        self.interrupted = False
        self.seconds = 0.0

    @property
    def tasks(self) -> list[Task]:
        """Ours first: what matters most is there soonest, and nothing later can touch it."""
        names = sorted(self._columns, key=lambda name: name != _JUDGED)
        return [Task(one.id, name) for name in names for one in self._attacks] + self._proof

    def play(self, jobs: int) -> None:
        """Runs the cells, so many at a time; ends early on Ctrl-C."""
        captures = self._folder / "captures"
        captures.mkdir()
        begin = time.monotonic()
        setting = Setting(captures, self._source)
        with closing(matrix.run(self.tasks, setting, jobs)) as results:
            try:
                with _progress(len(self.tasks)) as advance:
                    for result in results:
                        self.results.append(result)
                        advance(result)
            except KeyboardInterrupt:
                self.interrupted = True
        self.seconds = time.monotonic() - begin

    @property
    def content(self) -> dict[str, Any]:
        """All of it as data, ready for JSON."""
        minutes, seconds = divmod(round(self.seconds), 60)
        about = {
            **programs.machine(),
            "agent": "unchanged, from a checkout" if self._source else "restated",
            "duration": f"{minutes} min {seconds} s",
        }
        described = {name: one.title for name, one in self._columns.items()}
        return report.data(self.results, self._attacks, described, self._proof, about)

    def write(self) -> None:
        """The report's files."""
        report.write(self._folder, self.content)

    @property
    def findings(self) -> list[str]:
        """What makes the run a bad one, one line each.

        Of the killswitches ours is judged; the others are there to compare, unless they are alone.
        """
        alone = set(self._columns) if _JUDGED not in self._columns else set()
        counts = {one.id: one.counts for one in self._attacks}
        proof, found = set(self._proof), []
        for one in self.results:
            task = (one.attack, one.killswitch)
            broken = one.killswitch in alone and one.outcome not in (CLOSED, NOT_RUN)
            if broken or (one.killswitch == _JUDGED and not one.fine):
                found.append(f"{one.attack} {one.killswitch}: {one}")
            elif task in proof and not report.caught(one, counts[one.attack]):
                found.append(f"{one.attack} {one.killswitch}: must be found broken: {one}")
        return found

    def tallies(self) -> list[str]:
        """How each killswitch did, one line each."""
        lines = []
        for name in self._columns:
            own = [one.outcome for one in self.results if one.killswitch == name]
            words = [f"{count} {outcome}" for outcome, count in Counter(own).most_common()]
            lines.append(f"{name}: {', '.join(words) or 'nothing'}")
        if self._proof:
            done = [one for one in self.results if (one.attack, one.killswitch) in set(self._proof)]
            lines.append(f"mutants: {len(done)} of {len(self._proof)} tried")
        return lines


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Result], None]]:
    """A bar on a terminal; elsewhere nothing.  Yields what is to be called with each result."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    # Loaded where it is seen: it costs 50 ms.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    parts = ["[progress.description]{task.description}"]
    columns = [TextColumn(parts[0]), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("cells", total=total)

        def advance(result: Result) -> None:
            text = f"{result.attack} {result.killswitch}: {result.outcome}"
            bar.update(task, advance=1, description=text)

        yield advance
