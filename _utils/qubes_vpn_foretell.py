# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run would do: the steps of a plan, run in order on a dry machine."""

import qubes_vpn_dom0
import qubes_vpn_words
from qubes_vpn_qubesd import Refused


def foretell(machine, steps, last):
    """The *steps* (:class:`qubes_vpn_plan.Step`) with what each does to *machine*, a dry one.

    Each as a mapping: ``id``, ``state``, ``args`` and ``why`` of the step; ``changes``, ``{key:
    {"old": value, "new": value}}``; ``words``, the same in sentences; ``remarks``, what comes with
    it, such as connections that break; ``note``, why a step is left out; ``problem``, why it is
    refused.  A real run ends with the step that is refused: what comes after it is not foretold,
    and has None for ``changes``.
    last: what earlier runs wrote, as :func:`qubes_vpn_words.sentences` has it.
    """
    told, refused = [], False
    for step in steps:
        answer = {"changes": None if refused else {}, "words": [], "remarks": []}
        answer |= {"note": None, "problem": None}
        said = len(machine.remarks)
        if not refused:
            try:
                changes = answer["changes"]
                answer["note"] = qubes_vpn_dom0.run(machine, step.state, step.args, changes)
            except Refused as error:
                answer["problem"], refused = str(error), True
            answer["words"] = qubes_vpn_words.sentences(step.args["name"], changes, last)
            answer["remarks"] = machine.remarks[said:]
        told.append({**step._asdict(), **answer})
    return told
