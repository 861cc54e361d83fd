# SPDX-License-Identifier: GPL-2.0-or-later
"""What is true of every plan, whatever the wiring: order, and nobody let out on the way."""

import json

from hypothesis import given
from hypothesis import strategies as st

import qubes_vpn_model
import qubes_vpn_plan
from qubes_vpn_guard import guard_of, opened

from .machines import GATEWAY, is_clear, machines, pillars


def planned(document):
    """The model, and the steps of qubes.network.sys-vpn and of qubes.layout after them."""
    model = qubes_vpn_model.build(document)
    return model, qubes_vpn_plan.plan(model), qubes_vpn_plan.layout(model)


def places(steps, **wanted):
    """``{qube: place}`` of the steps with these values (a state, or arguments)."""
    return {
        step.args["name"]: place
        for place, step in enumerate(steps)
        if all(
            {"state": step.state, **step.args}.get(key) == value for key, value in wanted.items()
        )
    }


@given(document=pillars())
def test_steps_are_data(document):
    """Every id once in its SLS, as Salt asks for; to be printed, compared and handed to Salt."""
    _, steps, layout = planned(document)
    for ids in ([step.id for step in steps], [step.id for step in layout]):
        assert len(set(ids)) == len(ids)
    for step in [*steps, *layout]:
        assert json.loads(json.dumps(step.args)) == step.args
        assert step.why


@given(document=pillars())
def test_each_service_is_closed_before_it_carries_anything(document):
    """R12, R42: made, ruled, described, and only then providing network and connected."""
    model, steps, _ = planned(document)
    made, ruled = places(steps, state="present"), places(steps, state="firewall")
    provides = places(steps, state="qube", settings={"provides_network": True})
    wired = places(steps, state="netvm")
    for name, service in model.services.items():
        assert made[name] < provides[name] < wired[name]
        if service.role == "tunnel" or name in model.allowlists:
            assert made[name] < ruled[name] < provides[name]
        if service.upstream in model.services:
            assert wired[service.upstream] < made[name]


@given(document=pillars())
def test_services_then_vaults_then_clients_then_the_default(document):
    """R09 before R06 before R07."""
    model, steps, _ = planned(document)
    wired = places(steps, state="netvm")
    services = [wired[name] for name in model.services]
    vaults = [wired[name] for name in model.vaults if name in wired]
    services += [wired[GATEWAY]] if GATEWAY in wired else []
    carriers = [*model.services, GATEWAY]
    clients = [
        place for name, place in wired.items() if name not in carriers and name not in model.vaults
    ]
    order = [*sorted(services), *sorted(vaults), *sorted(clients)]
    assert order == sorted(order)
    last = [step.state for step in steps].count("default_netvm")
    assert last == (model.default != "keep")
    rest = [step.state for step in steps[max(order, default=0) + 1 :]]
    told = ["leftovers", "stranded"]
    assert rest[last:] == [*told, "management", *["disposables"] * last, "ways_round"]
    assert not last or rest[0] == "default_netvm"


@given(document=pillars())
def test_each_upstream_is_wired_before_what_is_downstream_of_it(document):
    """R92. Whonix' gateway too, where the pillar says what it hangs on (R08, R88)."""
    model, steps, _ = planned(document)
    wired = places(steps, state="netvm")
    for name in model.services:
        ways = [wired[each] for each in model.path(name) if each in wired]
        assert ways == sorted(ways, reverse=True)


@given(document=pillars())
def test_each_client_has_its_list_before_its_netvm(document):
    """R11."""
    model, *parts = planned(document)
    for steps in parts:
        ruled, wired = places(steps, state="firewall"), places(steps, state="netvm")
        for name in model.allowlists:
            assert ruled.get(name, -1) < wired.get(name, len(steps))
    assert set(model.allowlists) <= {
        step.args["name"] for steps in parts for step in steps if step.state == "firewall"
    }


@given(data=st.data(), document=pillars())
def test_at_the_end_everybody_is_where_the_pillar_says(data, document):
    """R05, R06, R09: online past every tunnel only by name; vaults nowhere."""
    model, steps, layout = planned(document)
    machine = data.draw(machines(document))
    for step in [*steps, *layout]:
        machine.apply(step)
    for name, netvm in model.routes.items():
        assert machine.wiring[name] == (None if netvm == "none" else netvm)
        if netvm != "none" and name not in model.outside_vpn:
            assert not is_clear(name, machine.wiring)
    for name in model.vaults:
        assert machine.wiring[name] is None
    assert model.default == "keep" or machine.default == (
        None if model.default == "none" else model.default
    )


@given(data=st.data(), document=pillars())
def test_no_step_lets_anybody_out(data, document):
    """R05: after every prefix of the plan, in clear are those who were, and those named.

    And the guard, asked as dom0 asks it, is never in the way of a machine fresh from Qubes.
    """
    model, steps, layout = planned(document)
    machine = data.draw(machines(document))
    guard = guard_of(qubes_vpn_plan.guard(model))
    named = {*model.outside_vpn, *model.services}
    if model.whonix == "direct":
        named.add(GATEWAY)
    for step in [*steps, *layout]:
        before = dict(machine.wiring)
        machine.apply(step)
        out = {
            name
            for name, netvm in machine.wiring.items()
            if netvm
            and is_clear(name, machine.wiring)
            and not (before.get(name) and is_clear(name, before))
        }
        assert out <= named, step.id
        assert opened(before, machine.wiring, guard) == [], step.id
