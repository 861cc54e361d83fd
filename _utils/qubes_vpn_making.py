# SPDX-License-Identifier: GPL-2.0-or-later
"""Making qubes so that an interrupted run leaves nothing half made for good.

A note in dom0 (:meth:`qubes_vpn_machine.Machine.begin`) says which qube is being made: from before
it is created until nothing is missing.  By it the next run knows what it may complete or remove.
The rules, and why they are safe: docs/decisions/0008-what-was-left-half-made.md.
"""

import contextlib

import qubes_vpn_unused
from qubes_vpn_qubesd import Refused, in_words


def template(machine, changes, name, source):
    """Clones template *source* to *name*, after removing what an interrupted run left of it."""
    if machine.klass(name) is not None:
        remove_half(machine, name)
        changes["left half made"] = {"old": "by an interrupted run", "new": "removed"}
    _begin(machine, name)
    changes["clone"] = {"old": None, "new": f"clone of {source}"}
    try:
        machine.clone(name, source, created=lambda uuid: _mark(machine, name, uuid))
    except Refused as refused:
        machine.forget_names()
        if machine.klass(name) is not None:
            # Without our mark it may be somebody else's, made this very moment.
            if not _is_ours(machine, name):
                raise Refused(f"{refused}. {_next_run(name)}") from refused
            with in_words(f"{refused}. {_next_run(name)} Removing it did not work"):
                machine.remove(name)
        _not_made(machine, changes, name, "clone")
        raise
    offline(machine, changes, name)
    _made(machine, name)


def offline(machine, changes, name):
    """Takes a template's netvm away, while the note still says of a new one that this is missing.

    A clone has the netvm of its source.
    """
    if machine.value(name, "netvm") is not None:
        machine.set(name, {"netvm": None}, changes)


def is_half_template(machine, name):
    """Whether an interrupted run left template *name* without a system.

    Cloning copies the root volume last, so a template that has one is whole.
    """
    return name in machine.unfinished() and not machine.written(name, "root")


def qube(machine, changes, name, klass, template, label, settings):
    """Makes a qube of class *klass* (AppVM or DispVM) without a netvm and with *settings*."""
    _begin(machine, name)
    changes["qube"] = {"old": None, "new": f"{klass}, {label}, {template or 'default template'}"}
    try:
        machine.make(name, klass, template, label)
    except Refused as refused:
        machine.forget_names()
        if machine.klass(name) is not None:
            raise Refused(f"{refused}. {_next_run(name)}") from refused
        _not_made(machine, changes, name, "qube")
        raise
    made = {}
    try:
        with in_words(f"'{name}' could not be finished"):
            machine.claim(name, machine.uuid(name))
            machine.set(name, {"netvm": None, **settings}, made)
    except Refused as refused:
        with in_words(f"{refused}. {_next_run(name)} Removing it did not work"):
            machine.remove(name)
        _not_made(machine, changes, name, "qube")
        raise
    changes.update({key: {"old": None, "new": change["new"]} for key, change in made.items()})
    _made(machine, name)


def complete(machine, changes, name, settings):
    """Ends what an interrupted run began, where *name* is noted as being made.

    Of an AppVM, what still is as qubesd makes it is set; what has a value of its own is kept,
    for it is ours, or somebody's choice since.
    """
    if name not in machine.unfinished():
        return
    if machine.klass(name) in ("AppVM", "DispVM"):
        wanted = {"netvm": None, **settings}
        missing = {key: value for key, value in wanted.items() if machine.inherits(name, key)}
        if missing and machine.running(name):
            raise Refused(
                f"'{name}' runs, and an earlier run was interrupted while it made it: "
                f"{', '.join(missing)} still as qubesd makes every qube. Shut it down "
                f"(qvm-shutdown {name}), then run this again."
            )
        if len(missing) == len(wanted) and machine.untouched(name):
            # Killed before it could be recorded: an undo would take it for somebody's own.
            machine.claim(name, machine.uuid(name))
        if missing:
            machine.set(name, missing, changes)
    _made(machine, name)
    changes["left half made"] = {"old": "by an interrupted run", "new": "completed"}


def leftovers(machine, changes, name, known):
    """What interrupted runs left of qubes that the pillar does not name: told, and not touched.

    And service qubes of an earlier pillar: :mod:`qubes_vpn_unused`.

    *name*: of the step.  known: names that the pillar has.  A note of a qube that is not there says
    nothing any more, and goes.
    """
    for each in sorted(machine.unfinished() - {*known}):
        if machine.klass(each) is None:
            with in_words(f"{each}: the note in dom0 could not be removed"):
                machine.end(each)
            changes[each] = {"old": "noted as half made", "new": "not there, note removed"}
        else:
            machine.remark(
                f"'{each}' may be half made: a run was interrupted while it made it, and the "
                f"pillar does not name it any more. Remove it (qvm-remove {each}); or, to keep it, "
                f"remove the note (qvm-features --unset dom0 {machine.note(each)})."
            )
    qubes_vpn_unused.tell(machine, changes, known)


def remove_half(machine, name):
    """Removes a template without a system, if it is ours or nothing can be lost with it."""
    if not _is_ours(machine, name) and not machine.untouched(name):
        raise Refused(
            f"'{name}' is a template without a system, and who made it so is not known: an earlier "
            f"run was interrupted just before it made one of that name. Remove it (qvm-remove "
            f"{name}) or finish it, then run this again."
        )
    if machine.running(name):
        raise Refused(
            f"'{name}' was left half made by an interrupted run, and it runs. Shut it down "
            f"(qvm-shutdown {name}), then run this again."
        )
    based = [each for each in machine.names() if machine.value(each, "template") == name]
    if based:
        raise Refused(
            f"'{name}' was left half made by an interrupted run, and {', '.join(based)} would lose "
            "the template. Choose another one for each, then run this again."
        )
    with in_words(f"'{name}' was left half made by an interrupted run and could not be removed"):
        machine.remove(name)


def _is_ours(machine, name):
    """Whether the note has this qube's uuid: it is the one that an earlier run made."""
    return machine.noted(name) == machine.value(name, "uuid")


def _begin(machine, name):
    with in_words(f"{name}: dom0 could not note that it is being made"):
        machine.begin(name)


def _mark(machine, name, uuid):
    with in_words(f"{name}: dom0 could not note which one it is"):
        machine.mark(name, uuid)
    machine.claim(name, uuid)


def _made(machine, name):
    with in_words(f"'{name}' is made, and dom0 could not note so; the next run does"):
        machine.end(name)


def _not_made(machine, changes, name, what):
    """There is no such qube, so there is no change, and a note that stays says nothing wrong."""
    del changes[what]
    with contextlib.suppress(Refused):
        _made(machine, name)


def _next_run(name):
    return f"What there is of '{name}' the next run puts right."
