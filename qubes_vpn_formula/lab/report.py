# SPDX-License-Identifier: GPL-2.0-or-later
"""A run as data, and that data as one page."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from qubes_vpn_formula import __version__
from qubes_vpn_formula.lab.attacks import Attack
from qubes_vpn_formula.lab.matrix import Task
from qubes_vpn_formula.lab.result import FAILED, LEAK, Result
from qubes_vpn_formula.page import render

_PAGE = Path(__file__).with_name("report.html.jinja")

#: A killswitch's name -> a line on what it is.
Columns = Mapping[str, str]


def data(
    results: Iterable[Result],
    chosen: Sequence[Attack],
    columns: Columns,
    proof: Iterable[Task],
    machine: Mapping[str, str],
) -> dict[str, Any]:
    """Everything about a run, ready for JSON.

    columns: the killswitches that were compared.  proof: the cells that had to be found broken; a
    mutant's.  Cells that have no result were not reached.
    """
    found = {(one.attack, one.killswitch): one for one in results}
    attacks = [
        {
            "id": one.id,
            "title": one.title,
            "section": one.section,
            "counts": list(one.counts),
            "fast": one.fast,
            "doc": (one.run.__doc__ or "").strip().partition("\n")[0],
        }
        for one in chosen
    ]
    cells = [
        asdict(found[one.id, name]) for one in chosen for name in columns if (one.id, name) in found
    ]
    counts = {one.id: one.counts for one in chosen}
    proven = [
        {**asdict(found[task]), "caught": caught(found[task], counts[task.attack])}
        for task in proof
        if task in found
    ]
    return {
        "version": __version__,
        "machine": dict(machine),
        "attacks": attacks,
        "killswitches": [{"name": name, "what": what} for name, what in columns.items()],
        "cells": cells,
        "proof": proven,
        "complete": len(cells) == len(attacks) * len(columns) and len(proven) == len([*proof]),
    }


def caught(result: Result, counts: Sequence[str]) -> bool:
    """Whether an attack has found a mutant broken: by a leak, or by what else its row counts."""
    return result.outcome == LEAK or (
        result.outcome == FAILED and bool({"STATE", "WORK"} & {*counts})
    )


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """`report.html` and `report.json`, beside the captures."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / "report.json").write_text(f"{text}\n", encoding="utf-8")
    (folder / "report.html").write_text(page(content), encoding="utf-8")


def page(content: Mapping[str, Any]) -> str:
    """The page: all it needs is in it."""
    by_place = {(cell["attack"], cell["killswitch"]): cell for cell in content["cells"]}
    proofs: dict[str, list[dict[str, Any]]] = {one["id"]: [] for one in content["attacks"]}
    for cell in content["proof"]:
        proofs[cell["attack"]].append(cell)
    columns = [
        {
            **one,
            "tally": Counter(
                c["outcome"] for c in content["cells"] if c["killswitch"] == one["name"]
            ),
        }
        for one in content["killswitches"]
    ]
    sections = [
        (title, list(rows))
        for title, rows in groupby(content["attacks"], lambda one: one["section"])
    ]
    tables = {"columns": columns, "sections": sections, "cell": by_place, "proofs": proofs}
    return render(_PAGE, content, **tables)
