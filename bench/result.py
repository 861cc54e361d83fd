# SPDX-License-Identifier: GPL-2.0-or-later
"""One measured number and its goal."""

import statistics
from typing import NamedTuple


class Result(NamedTuple):
    """value: must not be more than `goal`; None when it was not measured.

    detail: what the number is made of, with units, or why there is none.
    """

    what: str
    value: float | None
    goal: float
    detail: str

    @property
    def missed(self) -> bool:
        return self.value is not None and self.value > self.goal

    def line(self, width: int) -> str:
        """The table's line, with `what` as wide as `width`."""
        value = "-" if self.value is None else f"{self.value:g}"
        verdict = "   MISSED" if self.missed else ""
        return f"{self.what:{width}}  {value:>6}  <={self.goal:5g}   {self.detail}{verdict}"


def ratio(what: str, goal: float, pairs: list[tuple[float, float]]) -> Result:
    """The median of A / B over `pairs` of seconds that were measured next to each other."""
    value = statistics.median(a / b for a, b in pairs)
    a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
    return Result(what, round(value, 3), goal, f"{a * 1000:.3g} ms : {b * 1000:.3g} ms")
