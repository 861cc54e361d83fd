# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0's steps: each makes one thing so on a :class:`qubes_vpn_machine.Machine`, or is refused.

A step's function takes the plain arguments that the plan has for it.  Every step adds what it did
to *changes* as it goes along, and raises :class:`qubes_vpn_machine.Refused` when it is not possible
or not safe.
"""

import contextlib

import qubes_vpn_guard
from qubes_vpn_machine import Refused, half_made, in_words, shown, unnote

#: Classes of qubes that hold software for others, and dom0 itself: never somebody's client.
_NO_CLIENT = ("TemplateVM", "AdminVM")


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
    if klass in _NO_CLIENT:
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
    _need(machine, name)
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
    _need(machine, name)
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
    _need(machine, name)
    old = {key: machine.feature(name, key) for key in features}
    for key, value in features.items():
        if old[key] == value:
            continue
        with in_words(f"{name}: feature {key} was refused"):
            machine.set_feature(name, key, old[key], value)
        changes[key] = {"old": old[key], "new": value}
        if machine.feature(name, key) != value:
            raise Refused(f"{name}: feature {key} reads back differently.")


def netvm(machine, changes, name, netvm, guard):
    """Hangs a qube on *netvm* (``none``: on nothing), as its own choice, not an inherited one."""
    netvm = _name(netvm)
    _need(machine, name)
    if machine.klass(name) in _NO_CLIENT:
        raise Refused(f"'{name}' is a {machine.klass(name)}: templates update without a netvm.")
    if netvm is not None:
        _need_netvm(machine, netvm)
    if machine.value(name, "netvm") == netvm and not machine.inherits(name, "netvm"):
        return
    wiring = machine.wiring()
    _refuse_loop(name, netvm, wiring)
    _refuse_opening(wiring, {**wiring, name: netvm}, guard, f"{name} -> {shown(netvm)}")
    machine.moving(wiring, guard)
    if netvm is not None and machine.running(name) and not machine.running(netvm):
        machine.start(netvm, changes)
    machine.set(name, {"netvm": netvm}, changes)


def default_netvm(machine, changes, name, guard):
    """Sets dom0's default_netvm: the netvm of every qube that has none of its own choice."""
    netvm = _name(name)
    if machine.default_netvm() == netvm:
        return
    if netvm is not None:
        _need_netvm(machine, netvm)
    wiring = machine.wiring()
    heirs = [
        name
        for name in wiring
        if machine.klass(name) not in _NO_CLIENT and machine.inherits(name, "netvm")
    ]
    _refuse_loop_of_heirs(heirs, netvm, wiring)
    after = {**wiring, **dict.fromkeys(heirs, netvm)}
    _refuse_opening(wiring, after, guard, f"default_netvm {shown(netvm)}")
    machine.moving(wiring, guard)
    if netvm is not None and not machine.running(netvm) and any(map(machine.running, heirs)):
        machine.start(netvm, changes)
    machine.set_default_netvm(netvm, heirs, changes)


#: Which function does a step: by the name of its state, as the plan has it.
STEPS = {
    "template": template,
    "present": present,
    "firewall": firewall,
    "qube": qube,
    "netvm": netvm,
    "default_netvm": default_netvm,
}


def _name(netvm):
    return None if netvm == "none" else netvm


def _need(machine, name):
    if machine.klass(name) is None:
        raise Refused(f"there is no qube '{name}'. Create it, or take it out of the pillar.")


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


def _need_netvm(machine, netvm):
    if machine.klass(netvm) is None:
        raise Refused(f"there is no qube '{netvm}' to be a netvm. Create it, or name another.")
    if machine.value(netvm, "provides_network") is not True:
        raise Refused(
            f"'{netvm}' provides no network. Make it a service qube in the pillar, or set "
            f"'qvm-prefs {netvm} provides_network true' if it is one."
        )


def _refuse_loop(name, netvm, wiring):
    if name == netvm:
        raise Refused(f"'{name}' cannot be its own netvm. Name another.")
    way = qubes_vpn_guard.path(netvm, wiring)
    if name in way:
        raise Refused(
            f"{name} -> {' -> '.join(way)} would be a loop. Take {way[way.index(name) - 1]} "
            "off it first."
        )


def _refuse_loop_of_heirs(heirs, netvm, wiring):
    for name in qubes_vpn_guard.path(netvm, wiring):
        if name in heirs:
            raise Refused(
                f"'{name}' inherits its netvm and {netvm} leads through it: a loop. Give {name} a "
                "netvm of its own first."
            )


def _refuse_opening(before, after, guard, what):
    names = qubes_vpn_guard.opened(before, after, qubes_vpn_guard.guard_of(guard))
    if names:
        raise Refused(
            f"{what} would put {', '.join(names)} in clear, and now they are not. This step "
            "changed nothing. Take each of them offline "
            f"(qvm-prefs {names[0]} netvm none), run this again, and it gets the netvm that "
            "routes.qubes gives it; one without a route stays offline until 'qvm-prefs "
            f"--default {names[0]} netvm'. Or name it in outside_vpn, if in clear is where it "
            "belongs."
        )
