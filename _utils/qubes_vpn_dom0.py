# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0's steps: each makes one thing so on a :class:`qubes_vpn_machine.Machine`, or is refused.

A step's function takes the plain arguments that the plan has for it.  Every step adds what it did
to *changes* as it goes along, and raises :class:`qubes_vpn_qubesd.Refused` when it is not possible
or not safe.
"""

import qubes_vpn_bypass
import qubes_vpn_installing
import qubes_vpn_making
import qubes_vpn_restore
import qubes_vpn_software
import qubes_vpn_stranded
from qubes_vpn_closing import (
    disposables,
    management,
    served_by,
    services_policy,
    updates_policy,
    ways_round,
)
from qubes_vpn_moves import (
    NO_CLIENT,
    default_netvm,
    need,
    netvm,
    on_the_way,
    tell_offline,
)
from qubes_vpn_named import named, running, wrong_class
from qubes_vpn_qubesd import Refused, in_words, shown

#: Features that reach a qube as its services, which begin when it starts.
_SERVICE = "service."


def run(machine, state, args, changes):
    """One step of a plan, by its name: what a Salt state, a live plan and the tests all call.

    args: as the plan has them.  A step that is *optional* is left out while there is no such qube.
    Returns None, or what there is to say: why it was left out, or what it found.
    """
    args = dict(args)
    name, optional = args["name"], args.pop("optional", False)
    needed = args.get("qube", name)
    try:
        with in_words(f"{name}: qubesd said no"):
            if optional and machine.klass(needed) is None:
                return f"there is no qube '{needed}' yet; qubes.layout makes it"
            return STEPS[state](machine, changes, **args)
    except Refused as refused:
        try:
            tell_offline(machine)
        except Refused as unknown:
            raise Refused(f"{refused} And {unknown}.") from refused
        raise


def template(machine, changes, name, clone_of, guard):
    """Clones template *clone_of* to *name* unless it is there; never leaves it a netvm (R23).

    A *clone_of* that is missing is installed first (R20).
    """
    klass = machine.klass(name)
    if klass not in (None, "TemplateVM"):
        raise Refused(f"'{name}' is a qube ({klass}), not a template: choose another name.")
    if klass is None or qubes_vpn_making.is_half_template(machine, name):
        qubes_vpn_installing.source(machine, changes, clone_of, guard)
        _need_template(machine, clone_of)
        qubes_vpn_making.template(machine, changes, name, clone_of)
    else:
        qubes_vpn_making.offline(machine, changes, name)
        qubes_vpn_making.complete(machine, changes, name, {})


def present(machine, changes, name, label, template=None, settings=None, adopted=False):
    """Makes an AppVM without a netvm unless there is a qube of that name.

    adopted: whether what is different in one that is there is told.
    """
    klass = machine.klass(name)
    if klass in NO_CLIENT:
        raise Refused(f"'{name}' exists ({klass}) and is no qube: choose another name.")
    if klass is not None:
        qubes_vpn_making.complete(machine, changes, name, settings or {})
        if adopted:
            _tell_adopted(machine, name, label, template, settings or {})
        return
    if template:
        _need_template(machine, template)
    qubes_vpn_making.qube(machine, changes, name, "AppVM", template, label, settings or {})


def _tell_adopted(machine, name, label, template, settings):
    """What a qube of the user's has otherwise than the pillar says, and keeps."""
    wanted = {"label": label, "template": template, **settings}
    if template is None:
        del wanted["template"]
    has = {key: machine.value(name, key) for key in wanted}
    other = [
        f"{key} {shown(has[key])} (pillar: {shown(value)})"
        for key, value in wanted.items()
        if has[key] != value
    ]
    if other:
        machine.remark(f"{name} exists and keeps what it has: {', '.join(other)}.")


def disposable(machine, changes, name, template, label):
    """Makes a disposable of that name, from *template*, unless there is one; never without a list.

    It starts with what its template has: netvm, firewall list, services (qubes/vm/dispvm.py).
    """
    klass = machine.klass(name)
    if problem := wrong_class(machine, name, "DispVM"):
        raise Refused(problem)
    if klass is None:
        qubes_vpn_making.qube(machine, changes, name, "DispVM", template, label, {})
    else:
        qubes_vpn_making.complete(machine, changes, name, {})


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


def qube(machine, changes, name, settings=None, features=None, klass="AppVM"):
    """Sets properties (*settings*) and *features* that differ; names and values are qubesd's.

    klass: of the qube, where its template is among the settings.
    """
    _settings(machine, changes, name, settings or {}, klass)
    _features(machine, changes, name, features or {})


def _settings(machine, changes, name, settings, klass):
    need(machine, name)
    if "template" in settings and (problem := wrong_class(machine, name, klass)):
        raise Refused(problem)
    wrong = {key: value for key, value in settings.items() if machine.value(name, key) != value}
    if "template" in wrong:
        if klass == "AppVM":
            _need_template(machine, wrong["template"])
        if problem := running(machine, name):
            raise Refused(problem)
    netvm = machine.value(name, "netvm")
    cut_off = wrong.get("provides_network") and name in machine.wiring().values()
    # Its list is all that closes it until the new template is set up, and needs who enforces it.
    bare = "template" in wrong and netvm is not None and not machine.enforces(netvm)
    if netvm is not None and (cut_off or bare):
        # Reset, the flag leaves clients behind that nothing is passed on for (R4.3).  Switched on
        # it would let them out as the qube hangs now; the guard of its own move asks about them.
        machine.taken_off[name] = None
        with on_the_way(changes, name) as made:
            machine.set(name, {"netvm": None}, made)
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
        if key.startswith(_SERVICE) and machine.running(name):
            service = key.removeprefix(_SERVICE)
            machine.remark(f"{name} is running: restart it, then it has service {service}.")


#: Which function does a step: by the name of its state, as the plan has it.
STEPS = {
    "named": named,
    "bypass_closed": qubes_vpn_bypass.closed,
    "template": template,
    "template_offline": qubes_vpn_software.template_offline,
    "template_software": qubes_vpn_software.template_software,
    "present": present,
    "disposable": disposable,
    "firewall": firewall,
    "qube": qube,
    "netvm": netvm,
    "default_netvm": default_netvm,
    "restored": qubes_vpn_restore.restored,
    "undone": qubes_vpn_restore.undone,
    "removed": qubes_vpn_restore.removed,
    "cleaned": qubes_vpn_restore.cleaned,
    "leftovers": qubes_vpn_making.leftovers,
    "stranded": qubes_vpn_stranded.stranded,
    "management": management,
    "disposables": disposables,
    "served_by": served_by,
    "updates_policy": updates_policy,
    "services_policy": services_policy,
    "ways_round": ways_round,
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
