# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways to break the formula that let somebody out, or make it lie: each has to be found.

Every function here breaks it through a pytest.MonkeyPatch; its text says how.
"""

import qubes_vpn_dom0
import qubes_vpn_guard
import qubes_vpn_model
import qubes_vpn_plan
from qubes_vpn_machine import Machine


def default_netvm_first(patch):
    """Everybody who chose nothing is moved before there is anything to move to."""
    _reorder(patch, lambda step: step.state != "default_netvm")


def clients_before_services(patch):
    """Clients are moved while their netvms still hang where they hung."""
    _reorder(
        patch, lambda step: step.state != "netvm" or step.args["name"].startswith(("sys-", "t-"))
    )


def downstream_first(patch):
    """Service qubes are wired from the clients' side on."""
    upstream_first = qubes_vpn_model.Model.upstream_first
    patch.setattr(
        qubes_vpn_model.Model, "upstream_first", lambda model: upstream_first(model)[::-1]
    )


def list_after_netvm(patch):
    """A qube is connected first and limited then."""
    _lists_later(patch, lambda step: step.state == "netvm")


def provides_before_list(patch):
    """A VPN qube may carry clients before it is limited to its endpoints."""
    _lists_later(patch, lambda step: step.args.get("settings") == {"provides_network": True})


def no_guard(patch):
    """Nothing is refused."""
    patch.setattr(qubes_vpn_guard, "opened", lambda *_: [])
    no_promise(patch)


def no_promise(patch):
    """Who is to pass Tor and a tunnel, or two of them, may pass one of them for a while."""
    patch.setattr(qubes_vpn_guard, "weakened", lambda *_: {})


def guard_trusts_strangers_before(patch):
    """Whoever reaches the uplink without a tunnel of the pillar's counts as in clear already."""

    def is_in_clear(name, wiring, guard):
        way = qubes_vpn_guard.path(name, wiring)[1:]
        return bool(way) and way[-1] == guard.uplink and not set(way) & set(guard.shelters)

    patch.setattr(qubes_vpn_guard, "is_in_clear", is_in_clear)


def guard_trusts_strangers_after(patch):
    """A way that does not end at the pillar's uplink counts as none."""
    no_promise(patch)  # it would catch some of them
    may_be = qubes_vpn_guard.may_be_in_clear
    patch.setattr(
        qubes_vpn_guard,
        "may_be_in_clear",
        lambda name, wiring, guard: (
            may_be(name, wiring, guard) and qubes_vpn_guard.path(name, wiring)[-1] == guard.uplink
        ),
    )


def new_qubes_inherit(patch):
    """A new qube is left with the netvm that every new qube has."""

    def step(machine, changes, name, **args):
        keep = Machine.set

        def unset(machine, name, settings, changes):
            keep(machine, name, {key: settings[key] for key in settings if key != "netvm"}, changes)

        with patch.context() as inner:
            inner.setattr(Machine, "set", unset)
            present(machine, changes, name, **args)

    present = qubes_vpn_dom0.STEPS["present"]
    patch.setitem(qubes_vpn_dom0.STEPS, "present", step)


def clones_keep_their_netvm(patch):
    """A template of ours is as connected as the one that it is cloned from."""

    def step(machine, changes, name, **args):
        with patch.context() as inner:
            inner.setattr(Machine, "value", lambda *_: None)
            template(machine, changes, name, **args)

    template = qubes_vpn_dom0.STEPS["template"]
    patch.setitem(qubes_vpn_dom0.STEPS, "template", step)


def lists_in_two_calls(patch):
    """As qvm-firewall does it: the list is emptied, then filled."""
    set_rules = Machine.set_rules

    def twice(machine, name, rules, changes):
        if machine.rules(name) != rules:
            set_rules(machine, name, ["action=accept"], {})
            set_rules(machine, name, ["action=drop"], {})
        set_rules(machine, name, rules, changes)

    patch.setattr(Machine, "set_rules", twice)


def lists_that_nobody_enforces(patch):
    """Whether the netvm enforces lists is not asked."""
    patch.setattr(Machine, "enforces", lambda *_: True)


def dry_run_writes(patch):
    """test=True sets features."""
    set_feature = Machine.set_feature

    def wet(machine, name, *args):
        dry, machine.dry = machine.dry, machine.dry and name not in machine.app.domains
        set_feature(machine, name, *args)
        machine.dry = dry

    patch.setattr(Machine, "set_feature", wet)


def writes_what_is_there(patch):
    """Lists are written whether they differ or not."""
    set_rules = Machine.set_rules

    def always(machine, name, rules, changes):
        set_rules(machine, name, rules, changes)
        if not machine.dry:
            machine.app.domains[name].firewall.save_rules()

    patch.setattr(Machine, "set_rules", always)


def netvms_are_not_started(patch):
    """A running client's new netvm is left halted."""
    patch.setattr(Machine, "start", lambda *_: None)


def _reorder(patch, place):
    """Every plan's steps in another order: by *place*, a function of a step."""
    _replan(patch, lambda steps: sorted(steps, key=place))


def _lists_later(patch, after):
    """Every firewall list comes right after the step of its qube that *after* is true of."""

    def reorder(steps):
        lists = {step.args["name"]: step for step in steps if step.state == "firewall"}
        for name, limit in lists.items():
            if any(step.args["name"] == name and after(step) for step in steps):
                steps.remove(limit)
                at = [step.args["name"] == name and bool(after(step)) for step in steps].index(True)
                steps.insert(at + 1, limit)
        return steps

    _replan(patch, reorder)


def _replan(patch, reorder):
    for name in ("plan", "layout"):
        plan = getattr(qubes_vpn_plan, name)
        patch.setattr(qubes_vpn_plan, name, lambda model, plan=plan: reorder(plan(model)))


#: what a mutant breaks: the order of the steps, who is let out, or what is said about it
ORDER, LEAK, LIE = "order", "leak", "lie"
MUTANTS = {
    default_netvm_first: ORDER,
    clients_before_services: ORDER,
    downstream_first: ORDER,
    list_after_netvm: ORDER,
    provides_before_list: ORDER,
    no_guard: LEAK,
    no_promise: LEAK,
    guard_trusts_strangers_before: LEAK,
    guard_trusts_strangers_after: LEAK,
    new_qubes_inherit: LEAK,
    clones_keep_their_netvm: LEAK,
    lists_in_two_calls: LEAK,
    lists_that_nobody_enforces: LEAK,
    dry_run_writes: LIE,
    writes_what_is_there: LIE,
    netvms_are_not_started: LIE,
}
