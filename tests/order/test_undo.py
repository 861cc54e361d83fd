# SPDX-License-Identifier: GPL-2.0-or-later
"""An undo lets nobody out on the way either: after every single write, on any machine."""

import os
import tempfile

import pytest
from core.machines import way
from hypothesis import Phase
from hypothesis import strategies as st

import qubes_vpn_undo
from qubes_vpn_record import Record, read

from . import mutants, oracle
from .runs import run, steps
from .test_order import cases, held
from .worlds import world

pytestmark = pytest.mark.timeout(900)
undos = st.tuples(cases(), st.sampled_from(["first", "last"]), st.booleans())


@pytest.fixture(autouse=True)
def no_disk(monkeypatch):
    """Nobody pulls the plug here: waiting for the disk would take most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def nobody_is_let_out_by_an_undo(case):
    """In clear are those who were right before the undo, or before the runs that it undoes.

    And everybody passes the shelters that he passed at one of these two times.
    """
    (drawn, parts), to, remove = case
    machine, before, passed = world(drawn), [], []
    state, truth = machine.qubes.state, machine.truth
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            truth.tunnels.update(part.document["tunnels"])
            clear, lines = oracle.in_clear(state, truth), len(read(folder))
            ways = oracle.passing(state, truth)
            run(machine, steps(part), record=Record(folder))
            if len(read(folder)) > lines:
                before.append(clear)
                passed.append(ways)
        todo = qubes_vpn_undo.plan(read(folder), to, remove)
        may = oracle.in_clear(state, truth).union(*(before[:1] if to == "first" else before[-1:]))
        ways = [oracle.passing(state, truth), *(passed[:1] if to == "first" else passed[-1:])]
        found = []

        def look(call):
            wiring = oracle.netvms(state)
            out = sorted(oracle.in_clear(state, truth) - may)
            for name, now in oracle.passing(state, truth).items():
                if any(name not in each for each in ways):
                    continue  # a run made it, and it is taken off the net
                then = [each[name] for each in ways if each[name] is not None]
                if then and now is not None and not any(now >= each for each in then):
                    out.append(name)
            found.extend(f"after {call}: {way(name, wiring)}" for name in out)

        machine.qubes.looks[:] = [look]
        run(machine, todo, record=Record(folder))
        assert found == [], "\n".join(found)


def test_nobody_is_let_out_by_an_undo():
    """R92."""
    held(undos, nobody_is_let_out_by_an_undo, 40)


def test_an_undo_without_the_guard_is_found(monkeypatch):
    mutants.no_guard(monkeypatch)
    with pytest.raises(AssertionError):
        held(undos, nobody_is_let_out_by_an_undo, 300, phases=[Phase.generate])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_long():
    """Thousands of machines, by hand: `pytest -m slow tests/order`."""
    held(undos, nobody_is_let_out_by_an_undo, 3000)
