# SPDX-License-Identifier: GPL-2.0-or-later
"""One measured number and its goal."""

import statistics
from typing import NamedTuple


class Result(NamedTuple):
    """value: must not be more than `goal`. detail: what the number is made of, with units."""

    what: str
    value: float
    goal: float
    detail: str

    @property
    def reached(self) -> bool:
        return self.value <= self.goal


def ratio(what: str, goal: float, pairs: list[tuple[float, float]]) -> Result:
    """The median of A / B over `pairs` of seconds that were measured next to each other."""
    value = statistics.median(a / b for a, b in pairs)
    a, b = (statistics.median(times) for times in zip(*pairs, strict=True))
    return Result(what, round(value, 2), goal, f"{a * 1000:.3g} ms : {b * 1000:.3g} ms")
