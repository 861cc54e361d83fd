# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0's steps: each makes one thing so on a :class:`qubes_vpn_machine.Machine`, or is refused.

A step's function takes the plain arguments that the plan has for it.  Every step adds what it did
to *changes* as it goes along, and raises :class:`qubes_vpn_machine.Refused` when it is not possible
or not safe.
"""

import contextlib

from qubes_vpn_machine import Refused, half_made, in_words, unnote
from qubes_vpn_moves import NO_CLIENT, default_netvm, need, netvm


def run(machine, state, args, changes):
    """One step of a plan, by its name: what a Salt state, a live plan and the tests all call.

    args: as the plan has them.  A step that is *optional* is left out while there is no such qube.
    Returns None, or the reason why it was left out.
    """
    args = dict(args)
    name, optional = args["name"], args.pop("optional", False)
    with in_words(f"{name}: qubesd said no"):
        if optional and machine.klass(name) is None:
            return f"there is no qube '{name}' yet; qubes.layout makes it"
        STEPS[state](machine, changes, **args)
    return None


def template(machine, changes, name, clone_of):
    """Clones template *clone_of* to *name* unless it is there; never leaves it a netvm (R23)."""
    klass = machine.klass(name)
    if klass not in (None, "TemplateVM"):
        raise Refused(f"'{name}' is a qube ({klass}), not a template: choose another name.")
    if klass is None:
        _need_template(machine, clone_of)
        machine.begin(name)
        with _in_one_piece(machine, name):
            changes["clone"] = {"old": None, "new": f"clone of {clone_of}"}
            machine.clone(name, clone_of, changes)
            machine.claim(name)
    _refuse_unfinished(machine, name)
    if machine.value(name, "netvm") is not None:
        machine.set(name, {"netvm": None}, changes)


def present(machine, changes, name, label, template=None, settings=None, in_one_piece=False):
    """Makes an AppVM without a netvm unless there is a qube of that name.

    in_one_piece: whether no later step sets what counts, so that a half made one must be known.
    """
    klass = machine.klass(name)
    if klass in NO_CLIENT:
        raise Refused(f"'{name}' exists ({klass}) and is no qube: choose another name.")
    if klass is not None:
        _refuse_unfinished(machine, name)
        return
    if template:
        _need_template(machine, template)
    machine.begin(name)
    with _in_one_piece(machine, name) if in_one_piece else contextlib.nullcontext():
        _make(machine, name, label, template, settings or {}, changes)


def _make(machine, name, label, template, settings, changes):
    changes["qube"] = {"old": None, "new": f"AppVM, {label}, {template or 'default template'}"}
    machine.make(name, template, label, changes)
    made = {}
    try:
        with in_words(f"'{name}' could not be finished"):
            machine.set(name, {"netvm": None, **settings}, made)
            machine.claim(name)
    except Refused as refused:
        # Half made it would be online, and the next run would take it for the user's own.
        with in_words(f"{refused}. {half_made(name)} Removing it did not work"):
            machine.remove(name)
        changes.clear()
        raise
    changes.update({key: {"old": None, "new": change["new"]} for key, change in made.items()})


@contextlib.contextmanager
def _in_one_piece(machine, name):
    """Keeps a note in dom0 for as long as *name* is being made."""
    with in_words(f"{name}: dom0 could not note that it is being made"):
        machine.note(name, making=True)
    yield
    with in_words(f"{name} is made, and '{unnote(name)}' did not work"):
        machine.note(name, making=False)


def _refuse_unfinished(machine, name):
    if name in machine.unfinished():
        raise Refused(
            f"{half_made(name)} An earlier run was interrupted while it made it. If it is whole "
            f"all the same, say so: {unnote(name)}"
        )


def firewall(machine, changes, name, rules, enforced_by=None):
    """Replaces the qube's whole firewall list, in one call.

    enforced_by: the netvm that has to enforce it (None: the one it has); refused when it would not.
    """
    need(machine, name)
    netvm = enforced_by or machine.value(name, "netvm")
    if netvm and machine.klass(netvm) and not machine.enforces(netvm):
        raise Refused(
            f"{netvm} would not enforce the list. Its service qubes-firewall is switched off (then "
            f"qvm-service {netvm} qubes-firewall on, and restart it), or its template lacks "
            "qubes-core-agent-networking (install it, and restart both)."
        )
    machine.set_rules(name, rules, changes)


def qube(machine, changes, name, settings=None, features=None):
    """Sets properties (*settings*) and *features* that differ; names and values are qubesd's."""
    _settings(machine, changes, name, settings or {})
    _features(machine, changes, name, features or {})


def _settings(machine, changes, name, settings):
    need(machine, name)
    if "template" in settings and machine.klass(name) != "AppVM":
        raise Refused(
            f"'{name}' exists and is a {machine.klass(name)}, and a service qube of ours is an "
            "AppVM. Choose another name in the pillar, or rename that one."
        )
    wrong = {key: value for key, value in settings.items() if machine.value(name, key) != value}
    if "template" in wrong:
        _need_template(machine, wrong["template"])
        if machine.running(name):
            raise Refused(
                f"{name} is running, and its template can change only while it is halted. "
                f"Shut it down (qvm-shutdown {name}), then run this again."
            )
    if wrong:
        machine.set(name, wrong, changes)


def _features(machine, changes, name, features):
    need(machine, name)
    old = {key: machine.feature(name, key) for key in features}
    for key, value in features.items():
        if old[key] == value:
            continue
        with in_words(f"{name}: feature {key} was refused"):
            machine.set_feature(name, key, old[key], value)
        changes[key] = {"old": old[key], "new": value}
        if machine.feature(name, key) != value:
            raise Refused(f"{name}: feature {key} reads back differently.")


#: Which function does a step: by the name of its state, as the plan has it.
STEPS = {
    "template": template,
    "present": present,
    "firewall": firewall,
    "qube": qube,
    "netvm": netvm,
    "default_netvm": default_netvm,
}


def _need_template(machine, name):
    klass = machine.klass(name)
    if klass is None:
        raise Refused(
            f"there is no template '{name}'. Install it (qvm-template install {name}), or name "
            "another one in the pillar."
        )
    if klass != "TemplateVM":
        raise Refused(
            f"'{name}' is a qube ({klass}), not a template. Name a template in the pillar."
        )
