# SPDX-License-Identifier: GPL-2.0-or-later
"""From each named topology to each other on one machine (R88, R92).

Nobody who was not in clear is in clear after any single write, judged by `oracle`; the dry run
tells the truth; the second run is silent; a killed run is continued; and the undo goes back.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

import qubes_vpn_undo
from qubes_vpn_record import Record, read

from . import mutants, oracle
from .runs import Part, Watch, run, steps
from .switching import NAMED, PAIRS, document, like, machine

pytestmark = pytest.mark.timeout(900)
#: Two ways out of each topology and two into each; then those that turn a chain inside out.
SAMPLE = [
    (one, NAMED[(place + step) % len(NAMED)]) for place, one in enumerate(NAMED) for step in (1, 5)
]
INSIDE_OUT = [("multihop", "simple"), ("vpn-over-tor", "dns-tor-vpn"), ("tor-over-vpn", "dns")]


class Killed(BaseException):
    """The run ends here."""


@pytest.fixture(autouse=True)
def no_disk(monkeypatch):
    """Nobody pulls the plug here: waiting for the disk would take most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


_NEW = b"name=%b label=red"


def at(topology, folder, there=None):
    """A machine with this topology, whose run is recorded in the folder.

    there: the name of a netvm that somebody has made before.
    """
    found, wanted = machine(), document(topology)
    if there:
        found.qubes.call("dom0", "admin.vm.Create.AppVM", "debian-13-xfce", _NEW % there.encode())
        for key, value in (("provides_network", b"True"), ("netvm", b"")):
            found.qubes.call(there, "admin.vm.property.Set", key, value)
    oracle.described(found.qubes.state, found.truth, wanted["tunnels"])
    assert refused(run(found, plan(topology), record=Record(folder))) == []
    return found


def plan(topology):
    return steps(Part(document(topology), "plan"))


def refused(done):
    return [step for step in done if step.refused]


def switched(world, topology, record=None, look=None):
    """Runs its steps, watched by the oracle and by *look*: what they said."""
    oracle.described(world.qubes.state, world.truth, document(topology)["tunnels"])
    watch = Watch(world, document(topology))
    world.qubes.looks[:] = [watch.look, *([look] if look else [])]
    try:
        done = run(world, plan(topology), watch=watch, record=record)
        watch.told(done)
    finally:
        world.qubes.looks.clear()
        assert watch.found == [], "\n".join(watch.found)
    return done


def switches(one, two):
    """R69, R92. The whole story of one pair."""
    with tempfile.TemporaryDirectory() as folder:
        world = at(one, folder)
        state = world.qubes.state
        before, clear = oracle.everything(state), oracle.in_clear(state, world.truth)
        dry = run(world, plan(two), dry=True, record=Record(folder))
        assert oracle.everything(state) == before, "the dry run changed something"
        real = switched(world, two, Record(folder))
        assert refused(real) == []
        assert dry == real
        calls = []
        world.qubes.looks[:] = [calls.append]
        again = run(world, plan(two), record=Record(folder))
        assert ([step for step in again if step.changes], calls) == ([], [])
        if any(step.changes for step in real):  # mixed is parallel, where Tor was behind it before
            undone(world, folder, clear | oracle.in_clear(state, world.truth))
            back = oracle.everything(state)  # what was made stays, and nobody hangs on it
            assert {name: back[name] for name in before} == before


def undone(world, folder, may, to="last", half_made=False):
    """An undo, of the last run or of all: in clear are those who *may*, those before or after.

    Returns whether it was made; after a kill (*half_made*) it may be refused, as a whole.
    """
    found = []

    def look(call):
        clear = oracle.in_clear(world.qubes.state, world.truth)
        found.extend(f"after {call}: {name}" for name in sorted(clear - may))

    world.qubes.looks[:] = [look]
    done = run(world, qubes_vpn_undo.plan(read(folder), to, False), record=Record(folder))
    world.qubes.looks.clear()
    stopped = refused(done)
    if half_made and stopped and stopped[0].refused.endswith("Nothing is undone yet."):
        assert (found, [step for step in done if step.changes]) == ([], [])
        return False
    assert (found, stopped) == ([], [])
    return True


def continued(one, two, every):
    """R92. Killed after every so many writes, and run again: nobody out, and as if it never was."""
    with tempfile.TemporaryDirectory() as folder:
        start = at(one, folder)
    whole, writes = like(start.qubes, start.truth), []
    switched(whole, two, look=writes.append)
    goal = oracle.everything(whole.qubes.state)
    for number in range(1, len(writes), every):
        world = like(start.qubes, start.truth)
        with pytest.raises(Killed):
            switched(world, two, look=killer(number))
        assert refused(switched(world, two)) == []
        assert wiring(oracle.everything(world.qubes.state)) == wiring(goal), writes[number - 1]
    return len(writes)


def killed_and_undone(one, two, every):
    """R92. Killed after every so many writes, and undone: all is as it was before the switch."""
    with tempfile.TemporaryDirectory() as folder:
        start = at(one, folder)
        whole, writes = like(start.qubes, start.truth), []
        switched(whole, two, look=writes.append)
        may = oracle.in_clear(start.qubes.state, start.truth)
        before = oracle.everything(start.qubes.state)
        for number in range(1, len(writes), every):
            world, copied = like(start.qubes, start.truth), Path(folder, str(number))
            copied.mkdir()
            for each in Path(folder).glob("*.*"):
                shutil.copy(each, copied)
            with pytest.raises(Killed):
                switched(world, two, Record(copied), look=killer(number))
            if not qubes_vpn_undo.runs(read(copied))[-1].changed():
                continue
            clear = may | oracle.in_clear(world.qubes.state, world.truth)
            if not undone(world, copied, clear, half_made=True):
                continue  # what was made hangs on a tunnel still: a run completes it
            back = oracle.everything(world.qubes.state)
            left = {name: back[name] for name in before}
            assert left == before, writes[number - 1]


def killer(number):
    """Ends a run at its write of that number."""
    seen = []

    def kill(call):
        seen.append(call)
        if len(seen) == number:
            raise Killed

    return kill


def there_and_on(one, two, three):
    """R15, R92. Two switches in a row; then back over the last one, and to the very start."""
    with tempfile.TemporaryDirectory() as folder:
        first = oracle.everything(machine().qubes.state)
        world = at(one, folder)
        state, clear = world.qubes.state, oracle.in_clear(world.qubes.state, world.truth)
        assert refused(switched(world, two, Record(folder))) == []
        second = oracle.everything(state)
        clear |= oracle.in_clear(state, world.truth)
        done = switched(world, three, Record(folder))
        assert refused(done) == []
        clear |= oracle.in_clear(state, world.truth)
        if any(step.changes for step in done):
            undone(world, folder, clear)
            back = oracle.everything(state)
            assert {name: back[name] for name in second} == second
        clear |= oracle.in_clear(machine().qubes.state, world.truth)
        undone(world, folder, clear, "first")
        back = oracle.everything(state)
        assert {name: back[name] for name in first} == first


def refused_while_paused(one, two):
    """R92. Who is paused would keep the old way: nothing of his is moved until he goes on."""
    with tempfile.TemporaryDirectory() as folder:
        world = at(one, folder)
        whole = like(world.qubes, world.truth)
    switched(whole, two)
    goal, state = oracle.everything(whole.qubes.state), world.qubes.state
    before = state["qubes"]["work"]["properties"].get("netvm")
    world.qubes.call("work", "admin.vm.Pause")
    done = switched(world, two)
    if not refused(done):  # its way is the same in both
        assert state["qubes"]["work"]["properties"].get("netvm") == before
        return False
    assert "qvm-unpause" in done[-1].refused
    world.qubes.call("work", "admin.vm.Unpause")
    assert refused(switched(world, two)) == []
    assert wiring(oracle.everything(state)) == wiring(goal)
    return True


def wiring(everything):
    """Netvms and firewall lists: a client that was taken off is off until then, not later."""
    return {
        name: (found["properties"].get("netvm", "inherited"), found["rules"])
        for name, found in everything.items()
        if name != "globals"
    } | {"default": everything["globals"].get("default_netvm")}


@pytest.mark.parametrize("pair", dict.fromkeys([*SAMPLE, *INSIDE_OUT]), ids=" to ".join)
def test_switches(pair):
    """R88, R92."""
    switches(*pair)


@pytest.mark.parametrize("pair", INSIDE_OUT, ids=" to ".join)
def test_a_killed_switch_is_continued(pair):
    """R92."""
    assert continued(*pair, every=5) > 5


@pytest.mark.parametrize("pair", INSIDE_OUT, ids=" to ".join)
def test_a_killed_switch_is_undone(pair):
    """R92."""
    killed_and_undone(*pair, every=9)


def test_two_switches_and_back():
    """R15, R92."""
    there_and_on("multihop", "dns-tor-vpn", "simple")


def test_a_paused_client_stops_a_switch_and_loses_nothing():
    """R92."""
    assert refused_while_paused("multihop", "vpn-over-tor")


def test_who_is_in_tor_at_both_ends_is_in_it_all_the_way():
    """R88, R92. Taken off for as long as there is only the tunnel, and said so."""
    with tempfile.TemporaryDirectory() as folder:
        done = switched(at("dns-tor-vpn", folder), "tor-over-vpn")
    told = [text for step in done for text in step.remarks if "Taken offline first" in text]
    assert "work" in " ".join(told)


@pytest.mark.parametrize("adopted", [False, True])
@pytest.mark.parametrize("pair", [("multihop", "simple"), ("dns", "tor-over-vpn")], ids=" to ".join)
def test_what_is_left_over_stays_closed_and_is_told(pair, adopted):
    """R12, R88. A VPN qube's list, a resolver's service; and it does not start by itself."""
    one, two = pair
    with tempfile.TemporaryDirectory() as folder:
        world = at(one, folder, {"multihop": "sys-vpn-2", "dns": "sys-dns"}[one] * adopted)
        qubes = world.qubes.state["qubes"]
        old, new = ({*d["tunnels"], *d["resolvers"]} for d in map(document, pair))
        left = old - new
        assert left
        before = {name: (qubes[name]["rules"], dict(qubes[name]["features"])) for name in left}
        done = switched(world, two, Record(folder))
        again = run(world, plan(two), record=Record(folder))
    for name in left:
        assert (qubes[name]["rules"], qubes[name]["features"]) == before[name]
        assert qubes[name]["properties"]["autostart"] is False
        for steps_ in (done, again):
            told = " ".join(remark for step in steps_ for remark in step.remarks)
            assert f"qvm-remove {name}." in told
    assert [step for step in again if step.changes] == []


@pytest.mark.parametrize(
    ("one", "two", "name"),
    [("multihop", "simple", "sys-vpn-2"), ("sandwich", "dns", "sys-firewall-uplink")],
)
def test_an_autostart_that_the_user_set_stays(one, two, name):
    """R88. What is left over starts with the machine where somebody chose it, and only there."""
    with tempfile.TemporaryDirectory() as folder:
        world = at(one, folder)
        properties = world.qubes.state["qubes"][name]["properties"]
        assert properties["autostart"] is True
        switched(world, two, Record(folder))
        assert properties["autostart"] is False
        world.qubes.call(name, "admin.vm.property.Set", "autostart", b"True")
        done = run(world, plan(two), record=Record(folder))
        assert properties["autostart"] is True
        told = " ".join(remark for step in done for remark in step.remarks)
        assert f"It starts with the machine (qvm-prefs {name} autostart false)." in told


def test_a_restart_that_was_killed_is_made_again_and_its_note_removed_once():
    """R92. Killed when `work` is noted, and still runs: the next run restarts it as any other."""
    with tempfile.TemporaryDirectory() as folder:
        world = at("dns", folder)
        todo = steps(Part(document("vpn-over-tor", restart_clients="yes"), "plan"))

        def kill(call):
            if "x-qubes-vpn-stopped.work 1" in call:
                raise Killed

        world.qubes.looks[:] = [kill]
        with pytest.raises(Killed):
            run(world, todo, record=Record(folder))
        world.qubes.looks.clear()
        dry = run(world, todo, dry=True, record=Record(folder))
        real = run(world, todo, record=Record(folder))
        assert (refused(real), dry) == ([], real)
        assert "x-qubes-vpn-stopped.work" not in world.qubes.state["qubes"]["dom0"]["features"]


@pytest.mark.parametrize(
    ("one", "two", "told"),
    [
        ("tor-over-vpn", "simple", True),  # on sys-firewall, which is before the tunnel there
        ("tor-over-vpn", "multihop", False),
        ("dns-tor-vpn", "vpn-over-tor", False),  # as its name says
    ],
)
def test_tor_that_comes_out_of_the_tunnel_is_told(one, two, told):
    """R08, R88. Of the gateway that the new pillar leaves alone: the line sees Tor by that."""
    with tempfile.TemporaryDirectory() as folder:
        done = switched(at(one, folder), two)
    said = [remark for step in done for remark in step.remarks if "sees that Tor" in remark]
    assert bool(said) == told
    if told:
        assert "sys-whonix -> sys-firewall -> sys-net passes no tunnel now" in said[0]
        assert "Behind it now: anon. " in said[0]


@pytest.mark.parametrize("one", ["tor-over-vpn", "mixed"])
def test_tor_that_was_moved_goes_back_also_after_a_switch_that_leaves_it_alone(one):
    """R08, R92. It hung on the uplink; the first run moved it, and the second did not."""
    with tempfile.TemporaryDirectory() as folder:
        world = machine()
        gateway = world.qubes.state["qubes"]["sys-whonix"]["properties"]
        gateway["netvm"] = "sys-net"
        before = wiring(oracle.everything(world.qubes.state))
        for topology, netvm in ((one, "sys-firewall"), ("simple", "sys-firewall")):
            oracle.described(world.qubes.state, world.truth, document(topology)["tunnels"])
            assert refused(run(world, plan(topology), record=Record(folder))) == []
            assert gateway["netvm"] == netvm
        back = qubes_vpn_undo.plan(read(folder), "first", False)
        assert refused(run(world, back, record=Record(folder))) == []
        after = wiring(oracle.everything(world.qubes.state))
        assert {name: after[name] for name in before} == before


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("pair", PAIRS, ids=" to ".join)
def test_every_switch(pair):
    """R88, R92. All 72, killed after each write: `pytest -m slow tests/order`."""
    switches(*pair)
    continued(*pair, every=1)
    killed_and_undone(*pair, every=1)
    refused_while_paused(*pair)
    for third in NAMED:
        if third != pair[1]:
            there_and_on(*pair, third)


def test_a_switch_that_lets_somebody_out_is_found(monkeypatch):
    """The look at each write can fail."""
    mutants.no_guard(monkeypatch)
    with pytest.raises(AssertionError, match="in clear: "):
        [switches(*pair) for pair in PAIRS]
