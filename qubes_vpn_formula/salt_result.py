# SPDX-License-Identifier: GPL-2.0-or-later
"""What a ``salt-call --out=json`` run says, in the order in which it happened."""

from typing import NamedTuple


class Step(NamedTuple):
    """One state's result.  failed: whether it was not done; changes: as the state gave them."""

    id: str
    failed: bool
    changes: dict
    comment: str

    def lines(self):
        """The changes, a line each."""
        return change_lines(self.changes)


def change_lines(changes):
    """What a state or step changes, a line each: ``netvm: sys-net -> sys-dns``."""
    for key, change in changes.items():
        if not isinstance(change, dict) or "new" not in change:
            yield f"{key}: {change}"
        elif "\n" in f"{change['old']}{change['new']}":
            yield f"{key}:"
            yield from (f"  {line}" for line in str(change["new"]).splitlines())
        elif change["old"] is None:
            yield f"{key}: {change['new']}"
        else:
            yield f"{key}: {change['old']} -> {change['new']}"


def steps(data):
    """The :class:`Step` of every state of a ``state.sls`` run."""
    results = sorted(data.values(), key=lambda result: result["__run_num__"])
    return [
        Step(result["__id__"], result["result"] is False, result["changes"], result["comment"])
        for result in results
    ]


def ids(data):
    """The IDs of a ``state.show_sls`` answer, in their order."""

    def order(body):
        return next(
            argument["order"]
            for function in body.values()
            if isinstance(function, list)
            for argument in function
            if isinstance(argument, dict) and "order" in argument
        )

    return sorted(data, key=lambda name: order(data[name]))


def reason(run):
    """Why a run failed, in its own words: the first step that was not done, or all it printed."""
    try:
        return next(f"{step.id}: {step.comment}" for step in steps(run.data) if step.failed)
    except (ValueError, AttributeError, StopIteration):
        return run.stdout + run.stderr
