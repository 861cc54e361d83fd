# SPDX-License-Identifier: GPL-2.0-or-later
"""A run that is killed, or told an error, at any of its Admin API calls; and then run again (R92).

What a disturbed run left, the next one completes or removes; what is not ours it leaves alone.
The rules: docs/decisions/0008-what-was-left-half-made.md.
"""

import json
import os
import tempfile
from pathlib import Path

import pytest
from disturbed import Rerun, disturb, problems
from pillars import CANONICAL, DISPOSABLE, LAYOUT, PILLARS, PROMISE
from qubesd_errors import ERRORS, possible
from snapshots import compared, in_clear, netvms, own

from qubes_vpn_formula.embedded.qubesd.method import writes

pytestmark = pytest.mark.one_salt

#: every call with every error takes half an hour; else it is each call and each error, mixed
EVERYTHING = "QUBES_VPN_EVERY_FAULT" in os.environ
KILLS = [{"kill": kill} for kill in ("before", "in", "after")]
#: seconds; on a busy machine they take a while
PATIENCE = pytest.mark.timeout(0 if EVERYTHING else 900)
RUNS = {
    "dns": (PILLARS["dns"], "network"),
    "simple": (PILLARS["simple"], "network"),
    "layout": (LAYOUT, "layout"),
    "disposable": (DISPOSABLE, "network"),
    # personal and work are there and adopted, the others made; banking has a firewall of its own.
    "canonical": (CANONICAL, "layout"),
    "canonical's netvms": (CANONICAL, "network"),
}


@pytest.fixture
def tmp_path():
    """In memory: thousands of runs replace the machine's file a hundred times each."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def run(request, states, embedded):
    """(pillar, part), on a machine that is ready for it."""
    pillar, part = RUNS[request.param]
    if part == "layout":
        states.run(pillar)
    return pillar, part


def disturbed(states, embedded, run, faults, folder) -> tuple[list, list[str]]:
    """(cases, what is wrong with them and the runs after them)."""
    before = in_clear(embedded.snapshot())

    def whole():
        return all(state.result for state in states.run(*run).values())

    cases = disturb(embedded, whole, faults)
    goal = compared(embedded.snapshot())
    wrong = [f"{case.where}: {case.code}" for case in cases if case.code not in (0, 1, -9)]
    wrong += [
        f"{case.where}: told to be a success"
        for case in cases
        if case.code == 0 and compared(json.loads(case.left)["state"]) != goal
    ]
    return cases, wrong + problems(cases, Rerun(states, *run, goal, before), folder)


@PATIENCE
@pytest.mark.parametrize(
    ("run", "release"),
    [("dns", "4.3"), ("simple", "4.2"), ("layout", "4.3"), ("canonical", "4.3")]
    + [("dns", "4.2"), ("simple", "4.3"), ("layout", "4.2"), ("disposable", "4.3")] * EVERYTHING
    + [("canonical", "4.2"), ("canonical's netvms", "4.3")] * EVERYTHING,
    indirect=["run"],
)
def test_killed_at_any_call_the_next_run_gets_there(states, embedded, run, tmp_path):
    """R92. Before, in and after each of them; and the dry run in between says what will be done."""
    cases, wrong = disturbed(states, embedded, run, lambda *_call: KILLS, tmp_path)
    assert {case.code for case in cases} == {-9}
    assert wrong == []


@PATIENCE
@pytest.mark.parametrize(
    ("run", "release"),
    [("dns", "4.3"), ("layout", "4.2"), ("canonical", "4.3")]
    + [("dns", "4.2"), ("layout", "4.3"), ("simple", "4.2"), ("simple", "4.3")] * EVERYTHING
    + [("canonical", "4.2"), ("canonical's netvms", "4.2")] * EVERYTHING,
    indirect=["run"],
)
def test_told_any_error_at_any_call_the_next_run_gets_there(states, embedded, run, tmp_path):
    """R92. Also when qubesd did the call, and the connection was lost before it could say so."""

    def faults(number, method):
        yield {"error": "", "done": True}
        some = ERRORS if EVERYTHING else (ERRORS * 3)[number * 2 % len(ERRORS) :][:2]
        yield from ({"error": error} for error in some if possible(error, method))

    cases, wrong = disturbed(states, embedded, run, faults, tmp_path)
    assert 1 in {case.code for case in cases}
    assert wrong == []


@PATIENCE
def test_killed_on_the_way_to_another_pillar_the_next_run_gets_there(states, embedded, tmp_path):
    """R15, R92. Whoever was taken offline for the way is brought back all the same."""
    # What is left over starts with the machine no more; the record, which says whose wish that
    # was, is not put back between two of these runs.
    before = {**PILLARS["dns"], "resolvers": {"sys-dns": {"autostart": False}}}
    assert all(state.result for state in states.run(before).values())

    def faults(_number, method):
        return [{"kill": "after"}] if writes(method) else []

    run = (PILLARS["simple"], "network")
    cases, wrong = disturbed(states, embedded, run, faults, tmp_path)
    assert len(cases) > 5
    assert wrong == []


# --- what is whose: nobody's own things are removed or changed

TEMPLATE = {"name": "t-vpn", "clone_of": "debian-13-minimal", "guard": PROMISE}
REMOVED = {"left half made": {"old": "by an interrupted run", "new": "removed"}}
COMPLETED = {"left half made": {"old": "by an interrupted run", "new": "completed"}}


@pytest.fixture
def killed(states, embedded):
    """Kills a run of the pillar where it meets a call."""

    def kill(pillar=PILLARS["dns"], part="network", kill="before", **call):
        embedded.fail(kill=kill, **call)
        assert states.run_in_child(pillar, part) == -9
        embedded.snapshot()  # waits for a qubesd that goes on for nobody

    return kill


@pytest.fixture
def half_clone(killed):
    """t-vpn, to which the root volume was not copied."""
    killed(dest="t-vpn", method="admin.vm.volume.CloneTo", arg="root")


@pytest.fixture
def unmarked_clone(killed):
    """t-vpn, of which is noted no more than that it was to be made."""
    killed(method="admin.vm.CreateInPool.TemplateVM", kill="after")


def both(states, embedded, function, **arguments):
    """The answer of the dry run and of the real one, which say the same."""
    embedded.forget_calls()
    dry = getattr(states, function)(**arguments, test=True)
    assert embedded.writes() == []
    real = getattr(states, function)(**arguments)
    assert real.changes == dry.changes
    assert real.comment == dry.comment or real.result
    return real


def refused(states, embedded, function, **arguments) -> str:
    before = compared(embedded.snapshot())
    answer = both(states, embedded, function, **arguments)
    assert (answer.result, answer.changes) == (False, {})
    assert compared(embedded.snapshot()) == before
    return answer.comment


@pytest.mark.parametrize("half", ["half_clone", "unmarked_clone"])
def test_half_clone_is_removed_and_made_anew(states, embedded, request, half):
    request.getfixturevalue(half)
    old = own(embedded.snapshot(), "t-vpn")["uuid"]
    answer = both(states, embedded, "template", **TEMPLATE)
    assert answer.changes == {
        **REMOVED,
        "clone": {"old": None, "new": "clone of debian-13-minimal"},
    }
    assert own(embedded.snapshot(), "t-vpn")["uuid"] != old
    assert both(states, embedded, "template", **TEMPLATE).changes == {}


def test_clone_that_was_whole_is_kept(states, embedded, killed):
    """The user may have started it since, and put something in it."""
    killed(dest="t-vpn", method="admin.vm.volume.CloneTo", arg="root", kill="in")
    for method in ("Start", "Shutdown"):
        embedded.call("t-vpn", f"admin.vm.{method}")
    before = embedded.snapshot()["qubes"]["t-vpn"]
    assert both(states, embedded, "template", **TEMPLATE).changes == COMPLETED
    assert embedded.snapshot()["qubes"]["t-vpn"] == before
    assert both(states, embedded, "template", **TEMPLATE).changes == {}


def test_note_of_a_clone_stays_until_it_has_no_netvm(states, embedded, killed):
    """R23, R92. The source has one, and each of two runs is killed before the note goes."""
    embedded.call("debian-13-minimal", "admin.vm.property.Set", "netvm", b"sys-net")
    note = {"method": "admin.vm.feature.Remove", "arg": "x-qubes-vpn-making.t-vpn"}
    killed(**note, kill="after")
    assert own(embedded.snapshot(), "t-vpn")["netvm"] is None
    embedded.call("t-vpn", "admin.vm.Remove")
    killed(dest="t-vpn", method="admin.vm.property.Set", arg="netvm")
    for kill in ("before", "after"):
        if kill == "after":
            embedded.call("t-vpn", "admin.vm.property.Set", "netvm", b"sys-net")
        killed(**note, kill=kill)
        assert own(embedded.snapshot(), "t-vpn")["netvm"] is None
    assert both(states, embedded, "template", **TEMPLATE).changes == {}


def test_volume_with_no_more_than_a_pools_own_needs_is_empty(states, embedded, half_clone):
    """ZFS counts some for a new one."""
    content = json.loads(embedded.path.read_bytes())
    content["state"]["qubes"]["t-vpn"]["volumes"]["root"]["used"] = 20_000
    new = embedded.path.with_name("new")
    new.write_text(json.dumps(content))
    new.replace(embedded.path)
    assert both(states, embedded, "template", **TEMPLATE).changes.items() >= REMOVED.items()


def test_template_of_that_name_that_somebody_made_meanwhile_is_kept(states, embedded, killed):
    killed(method="admin.vm.CreateInPool.TemplateVM")
    states.template("t-mine", clone_of="debian-13-xfce", guard=PROMISE)
    mine = embedded.path.read_bytes().replace(b"t-mine", b"t-vpn")
    new = embedded.path.with_name("new")
    new.write_bytes(mine)
    new.replace(embedded.path)
    before = embedded.snapshot()["qubes"]["t-vpn"]
    assert both(states, embedded, "template", **TEMPLATE).changes == COMPLETED
    assert embedded.snapshot()["qubes"]["t-vpn"] == before


def test_empty_template_that_somebody_changed_is_refused(states, embedded, unmarked_clone):
    """It may be somebody's clone of this very moment."""
    embedded.call("t-vpn", "admin.vm.property.Set", "memory", b"500")
    assert refused(states, embedded, "template", **TEMPLATE).startswith(
        "'t-vpn' is a template without a system, and who made it so is not known"
    )
    embedded.call("t-vpn", "admin.vm.Remove")
    assert states.template(**TEMPLATE).result is True


def test_another_of_that_name_is_not_taken_for_the_one_that_was_made(states, embedded, half_clone):
    embedded.call("t-vpn", "admin.vm.Remove")
    embedded.call("dom0", "admin.vm.Create.TemplateVM", "", b"name=t-vpn label=black")
    embedded.call("t-vpn", "admin.vm.property.Set", "memory", b"500")
    assert "who made it so is not known" in refused(states, embedded, "template", **TEMPLATE)


def test_half_clone_that_runs_or_is_used_is_refused(states, embedded, half_clone):
    embedded.call("dom0", "admin.vm.Create.AppVM", "t-vpn", b"name=mine label=red")
    assert refused(states, embedded, "template", **TEMPLATE) == (
        "'t-vpn' was left half made by an interrupted run, and mine would lose the template. "
        "Choose another one for each, then run this again."
    )
    embedded.call("t-vpn", "admin.vm.Start")
    assert refused(states, embedded, "template", **TEMPLATE) == (
        "'t-vpn' was left half made by an interrupted run, and it runs. Shut it down "
        "(qvm-shutdown t-vpn), then run this again."
    )


def test_half_clone_that_was_started_and_stopped_is_made_anew(states, embedded, half_clone):
    """There is no system in it, so nothing of anybody's."""
    for method in ("Start", "Shutdown"):
        embedded.call("t-vpn", f"admin.vm.{method}")
    assert both(states, embedded, "template", **TEMPLATE).changes.items() >= REMOVED.items()


def test_interrupted_templates_are_known_apart(states, embedded, killed):
    """The second does not hide what the first one left."""
    names = ("t-one", "t-two")
    for name in names:
        pillar = {**PILLARS["dns"], "templates": {name: {"clone_of": "debian-13-minimal"}}}
        killed(pillar, dest=name, method="admin.vm.volume.CloneTo")
    for name in names:
        answer = states.template(name, clone_of="debian-13-minimal", guard=PROMISE)
        assert answer.changes.items() >= REMOVED.items()


@pytest.fixture
def half_qube(states, embedded, killed):
    """chats of the layout, with the netvm that qubesd gave it."""
    states.run(LAYOUT)
    killed(LAYOUT, "layout", dest="chats", method="admin.vm.property.Set", arg="netvm")
    return {"name": "chats", "label": "blue", "settings": {"template_for_dispvms": True}}


def test_half_made_qube_is_taken_offline_and_completed(states, embedded, half_qube):
    """R10."""
    assert netvms(embedded.snapshot())["chats"] == "sys-firewall"
    assert both(states, embedded, "present", **half_qube).changes == {
        "netvm": {"old": "sys-firewall (inherited)", "new": "none"},
        "template_for_dispvms": {"old": False, "new": True},
        **COMPLETED,
    }
    assert both(states, embedded, "present", **half_qube).changes == {}


@pytest.mark.parametrize("changed", [False, True], ids=["as made", "changed since"])
def test_qube_made_just_before_the_kill_is_ours_to_an_undo(states, embedded, killed, changed):
    """R92. The kill came before its uuid was recorded; what somebody changed may be theirs."""
    killed(PILLARS["simple"], method="admin.vm.Create.AppVM", kill="after")
    assert "sys-vpn" in embedded.snapshot()["qubes"]
    if changed:
        embedded.call("sys-vpn", "admin.vm.property.Set", "memory", b"500")
    for done in (states.run(PILLARS["simple"]), states.undo(remove=not changed)):
        assert all(state.result for state in done.values())
    assert netvms(embedded.snapshot()).get("sys-vpn") == ("sys-firewall" if changed else None)
    assert ("sys-vpn" in embedded.snapshot()["qubes"]) == changed


def test_half_made_qube_keeps_what_was_chosen_since(states, embedded, half_qube):
    embedded.call("chats", "admin.vm.property.Set", "netvm", b"sys-net")
    embedded.call("chats", "admin.vm.property.Set", "template_for_dispvms", b"False")
    assert both(states, embedded, "present", **half_qube).changes == COMPLETED
    assert own(embedded.snapshot(), "chats")["netvm"] == "sys-net"


def test_half_made_qube_that_runs_is_refused(states, embedded, half_qube):
    embedded.call("chats", "admin.vm.Start")
    assert refused(states, embedded, "present", **half_qube) == (
        "'chats' runs, and an earlier run was interrupted while it made it: netvm, "
        "template_for_dispvms still as qubesd makes every qube. Shut it down (qvm-shutdown chats), "
        "then run this again."
    )


def test_qube_of_another_class_is_somebodys_own(states, embedded, half_qube):
    embedded.call("chats", "admin.vm.Remove")
    embedded.call("dom0", "admin.vm.Create.StandaloneVM", "", b"name=chats label=red")
    before = embedded.snapshot()["qubes"]["chats"]
    assert both(states, embedded, "present", **half_qube).changes == COMPLETED
    assert embedded.snapshot()["qubes"]["chats"] == before


def test_what_the_pillar_does_not_name_any_more_is_told_and_kept(states, embedded, half_clone):
    """R92. Each run says so, until the user has decided; a note of nothing goes by itself."""
    embedded.call("dom0", "admin.vm.feature.Set", "x-qubes-vpn-making.t-gone", b"1")
    other = {**PILLARS["dns"]["tunnels"]["sys-vpn"], "template": "t-other"}
    pillar = {**PILLARS["dns"], "tunnels": {"sys-vpn": other}}
    pillar["templates"] = {"t-other": {"clone_of": "debian-13-minimal"}}
    before = own(embedded.snapshot(), "t-vpn")
    dry = states.run(pillar, test=True)["left half made"]
    real = states.run(pillar)["left half made"]
    gone = {"t-gone": {"old": "noted as half made", "new": "not there, note removed"}}
    assert dry.changes == real.changes == gone
    assert "t-gone is noted as half made, and is not there: the note goes" in dry.comment
    told = (
        "'t-vpn' may be half made: a run was interrupted while it made it, and the pillar does not "
        "name it any more. Remove it (qvm-remove t-vpn); or, to keep it, remove the note "
        "(qvm-features --unset dom0 x-qubes-vpn-making.t-vpn)."
    )
    assert dry.comment.splitlines()[-1] == real.comment.splitlines()[-1] == told
    assert states.run(pillar)["left half made"] == (True, {}, f"as the pillar says\n{told}")
    assert own(embedded.snapshot(), "t-vpn") == before
    embedded.call("t-vpn", "admin.vm.Remove")
    states.run(pillar)
    assert states.run(pillar)["left half made"] == (True, {}, "as the pillar says")


def test_what_the_layout_makes_is_left_to_the_layout(states, embedded, half_qube):
    assert states.run(LAYOUT)["left half made"] == (True, {}, "as the pillar says")


def test_clone_that_fails_is_removed_unless_that_fails_too(states, embedded):
    """ProtocolError: qubesadmin's own clone_vm does not clean up after it."""
    for removing in ([], [{"method": "admin.vm.Remove", "error": "QubesVMInUseError"}]):
        for fault in [{"method": "admin.vm.volume.CloneTo", "error": "ProtocolError"}, *removing]:
            embedded.fail(**fault)
        answer = states.template(**TEMPLATE)
        assert answer.result is False
        assert ("t-vpn" in embedded.snapshot()["qubes"]) == bool(removing)
        assert bool(answer.changes) == bool(removing)
    assert answer.comment == (
        "'t-vpn' could not be made: injected fault. What there is of 't-vpn' the next run puts "
        "right. Removing it did not work: injected fault"
    )
    assert states.template(**TEMPLATE).changes.items() >= REMOVED.items()


def test_qube_that_was_made_by_somebody_at_that_very_moment_is_not_removed(states, embedded):
    """qubesd says that there is one: it is not for us to say whose."""
    embedded.fail(method="admin.vm.CreateInPool.TemplateVM", error="QubesException", done=True)
    answer = states.template(**TEMPLATE)
    assert answer.comment == (
        "'t-vpn' could not be made: injected fault. What there is of 't-vpn' the next run puts "
        "right."
    )
    assert "t-vpn" in embedded.snapshot()["qubes"]
