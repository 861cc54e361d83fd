# SPDX-License-Identifier: GPL-2.0-or-later
"""Who sees what with the pillar on a page, as tables."""

import qubes_vpn_observers
from reference import pictures


def write(before):
    """A table for each way out of the last pillar on the page so far; ValueError as a picture's."""
    return "\n\n".join(map(_table, qubes_vpn_observers.ways(pictures.last_pillar(before).model)))


def _table(way):
    heads = ["who", *qubes_vpn_observers.FACTS.values()]
    rows = [
        [each.who(), *("sees" if fact in each.sees else "" for fact in qubes_vpn_observers.FACTS)]
        for each in way.observers
    ]
    lines = [heads, ["---"] * len(heads), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    title = qubes_vpn_observers.title(way).replace("->", "→")
    return "\n\n".join([f"**{title}**", table, *qubes_vpn_observers.remarks(way)])
