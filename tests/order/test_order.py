# SPDX-License-Identifier: GPL-2.0-or-later
"""Nobody is let out on the way, from any machine to any pillar: after every single write.

The formula's own steps run on the fake qubesd; who is in clear is judged by `oracle`, which knows
what the qubes really are.
"""

import pytest
from core.machines import pillars, with_other_roles
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import qubes_vpn_guard

from . import mutants, oracle
from .runs import Part, Watch, run, steps
from .worlds import drawn, plain, world
from .written import written

# On a machine with other things to do one of them takes minutes.
pytestmark = pytest.mark.timeout(900)


@st.composite
def cases(draw):
    """Any machine, and up to three pillars that are run on it one after the other.

    What one of them calls a tunnel may be a firewall to the next one.
    """
    documents = draw(st.lists(pillars().flatmap(written), min_size=1, max_size=3))
    if draw(st.booleans()):
        documents = [draw(with_other_roles(document)) for document in documents]
    for document in documents:
        document["restart_clients"] = draw(st.sampled_from(["never", "never", "ask", "yes"]))
    return draw(drawn(documents)), [part for document in documents for part in both(document)]


@st.composite
def plain_cases(draw):
    """A machine as Qubes installs it, and a pillar."""
    document = draw(pillars().flatmap(written))
    return draw(plain(document)), both(document)


def both(document):
    """The pillar's network, and its layout if it has one."""
    return [Part(document, plan) for plan in ("plan", "layout")[: 2 if document["layout"] else 1]]


def watched(world, part, todo):
    """Runs a pillar's steps, and looks after every write."""
    watch = Watch(world, part.document)
    world.qubes.looks[:] = [watch.look]
    done = run(world, todo, watch=watch)
    watch.told(done)
    assert watch.found == [], "\n".join(watch.found)
    return done


def nobody_is_let_out(case):
    """Whatever the machine and the pillars."""
    drawn, parts = case
    machine = world(drawn)
    for part in parts:
        oracle.described(machine.qubes.state, machine.truth, part.document["tunnels"])
        watched(machine, part, steps(part))


def nobody_is_let_out_by_the_order(case):
    """Not even without the guard; and with it, it is not in the way."""
    drawn, parts = case
    for guarded in (False, True):
        machine = world(drawn)
        with pytest.MonkeyPatch.context() as patch:
            if not guarded:
                # Who would pass one of two tunnels is taken off by the guard alone.
                patch.setattr(qubes_vpn_guard, "opened", lambda *_: [])
            for part in parts:
                machine.truth.tunnels.update(part.document["tunnels"])
                done = watched(machine, part, steps(part))
                assert [step for step in done if step.refused] == [], done[-1]


def runs_tell_the_truth(case):
    """A dry run changes nothing and says what a real one does; after that there is nothing to do.

    Nor is there after a refusal, which comes again, at the same step and in the same words.
    """
    drawn, parts = case
    machine = world(drawn)
    state, calls = machine.qubes.state, []
    for part in parts:
        todo = steps(part)
        before = oracle.everything(state)
        dry = run(machine, todo, dry=True)
        assert oracle.everything(state) == before, "the dry run changed something"
        real = run(machine, todo)
        assert dry == real, f"{dry[-1]}\n{real[-1]}"
        after = oracle.everything(state)
        machine.qubes.looks[:] = [calls.append]
        again = run(machine, todo)
        machine.qubes.looks.clear()
        assert [done for done in again if done.changes] == [], again
        assert [done.refused for done in again] == [done.refused for done in real], again
        assert calls == [], calls
        assert oracle.everything(state) == after


def held(cases, claim, examples, **more):
    """Tries *claim* on so many cases, always the same ones."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )
    @given(case=cases)
    def each(case):
        claim(case)

    each()


def test_nobody_is_let_out():
    """R05, R12, R92."""
    held(cases(), nobody_is_let_out, 100)


def test_nobody_is_let_out_by_the_order_alone():
    """R92: from a machine as Qubes installs it the guard is a second lock, not the first."""
    held(plain_cases(), nobody_is_let_out_by_the_order, 30)


@st.composite
def disposable_cases(draw):
    """The same, where every tunnel that can be is a disposable."""
    drawn, (part, *more) = draw(plain_cases())
    for keys in part.document["tunnels"].values():
        if keys["kind"] != "mullvad":
            keys["disposable"] = True
    return drawn, [part, *more]


def test_nobody_is_let_out_where_tunnels_are_disposables():
    """R85: by the order alone; and what a run says of them is true."""
    held(disposable_cases(), nobody_is_let_out_by_the_order, 15)
    held(disposable_cases(), runs_tell_the_truth, 10)


def test_runs_tell_the_truth():
    """R69."""
    held(cases(), runs_tell_the_truth, 40)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("claim", [nobody_is_let_out, runs_tell_the_truth])
def test_long(claim):
    """Thousands of machines; in no make target, `pytest -m slow tests/order`."""
    held(cases(), claim, 5000)


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.__name__)
def test_what_lets_out_or_lies_is_found(mutant, monkeypatch):
    """Each way to break the formula, by what it breaks."""
    mutant(monkeypatch)
    strategy, claim = {
        mutants.ORDER: (plain_cases(), nobody_is_let_out_by_the_order),
        mutants.LEAK: (cases(), nobody_is_let_out),
        mutants.LIE: (cases(), runs_tell_the_truth),
    }[mutants.MUTANTS[mutant]]
    with pytest.raises(AssertionError):
        held(strategy, claim, 300, phases=[Phase.generate])
