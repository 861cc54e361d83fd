# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0's step that tells whom a run that was killed left offline or off, when no step repairs it.

A run with the same pillar brings them back.  With another pillar nobody would, and nobody would
say so: the record knows whom we took offline, and a note in dom0 whom we shut down.
"""

import qubes_vpn_record
from qubes_vpn_closing import managing
from qubes_vpn_moves import NO_CLIENT
from qubes_vpn_qubesd import Refused, in_words


def stranded(machine, changes, name, routed, default, disposables):
    """Moves nobody.  A note of a qube that was shut down goes, and what is still off is told.

    name: of the step.  routed: whose netvm the pillar gives.  default, disposables: the pillar's
    ``routes.default`` and ``disposables``.
    """
    for each in machine.stopped():
        if machine.klass(each) and not machine.running(each):
            machine.remark(
                f"{each} was shut down by a run that was interrupted before it started it again: "
                f"qvm-start {each}."
            )
        machine.started(each)
        changes[each] = {"old": "noted as shut down", "new": "told, note removed"}
    try:
        written = qubes_vpn_record.written(_of_runs(machine.recorded()))
    except Refused as unknown:
        machine.remark(f"Whom an earlier run left offline is not known: {unknown}")
        return
    meant = {*routed, *managing(machine)}
    if disposables == "none":
        meant |= {each for each in machine.names() if machine.value(each, "template_for_dispvms")}
    for (kind, each, key), line in written.items():
        if (kind, key) == ("property", "netvm") and each not in meant and _is_off(machine, line):
            machine.remark(
                f"{each} is offline since an earlier run took it off {line['old']}, and the pillar "
                "does not route it. Give it a route in routes.qubes: none, if it is to stay so."
            )
    line = written.get(("global", "dom0", "default_netvm"))
    if line and default == "keep" and _is_loss(line) and machine.default_netvm() is None:
        machine.remark(
            f"dom0's default_netvm is none since an earlier run took it off {line['old']}, and the "
            "pillar keeps it so: whoever inherits it is offline. Name one in routes.default: none, "
            "if it is to stay so."
        )


def _is_loss(line):
    """Whether a line of the record tells of a netvm that became none."""
    return bool(line["old"]) and line["new"] is None


def _of_runs(lines):
    """Without what an undo put back, once it was through: somebody's own choice is that again."""
    last = max((place for place, line in enumerate(lines) if "undone" in line), default=-1)
    kept, undoing = [], False
    for place, line in enumerate(lines):
        undoing = line.get("undoing", False) if "run" in line else undoing
        if "change" in line and undoing and place < last:
            line = {key: value for key, value in line.items() if key != "new"}
        kept.append(line)
    return kept


def _is_off(machine, line):
    """Whether a qube is as we left it: offline by our hand, which it was not before."""
    name = line["of"]
    with in_words(f"{name}: whether it is offline could not be seen"):
        return (
            _is_loss(line)
            and machine.klass(name) not in (None, *NO_CLIENT)
            and machine.value(name, "uuid") == line.get("uuid")
            and machine.value(name, "netvm") is None
            and not machine.inherits(name, "netvm")
        )
