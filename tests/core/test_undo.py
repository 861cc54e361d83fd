# SPDX-License-Identifier: GPL-2.0-or-later
"""From a record to the steps of an undo, for any runs and any changes by hand between (R92).

The machine here is a mapping of things to values; INHERITED is nobody's choice.
"""

from hypothesis import given
from hypothesis import strategies as st

import qubes_vpn_undo
from qubes_vpn_undo import again_in_clear, moved_after, netvms, options, plan

INHERITED = "inherited"
THINGS = [
    *(("property", name, "netvm") for name in ("work", "personal", "sys-firewall")),
    ("property", "sys-firewall", "provides_network"),
    ("feature", "work", "service.x"),
    ("global", "dom0", "default_netvm"),
]
UUIDS = {"work": "1", "personal": "2", "sys-firewall": "3"}
#: What the user and the runs set are told apart by their names.
BY_HAND = st.sampled_from(["hand-1", "hand-2", INHERITED])
OURS = st.sampled_from(["ours-1", "ours-2", "ours-3"])
CHANGES = st.dictionaries(st.sampled_from(THINGS), OURS, min_size=1)
MACHINES = st.fixed_dictionaries(dict.fromkeys(THINGS, BY_HAND))


def run(machine, changes, number):
    """Makes the *changes* on *machine*, as a run does it; the lines that it records."""
    lines = [{"run": f"time {number}"}]
    for thing, new in changes.items():
        if machine[thing] != new:
            kind, of, key = thing
            line = {"change": kind, "of": of, "key": key, "old": machine[thing], "new": new}
            if machine[thing] == INHERITED:
                line.update(old="default", inherited=True)
            if of in UUIDS:
                line["uuid"] = UUIDS[of]
            lines.append(line)
            machine[thing] = new
    return lines if len(lines) > 1 else []


def undo(machine, lines, steps):
    """Does *steps* on *machine*; the line that the last of them records is added to *lines*."""
    for step in steps:
        if step.state == "undone":
            lines.append({"undone": step.args["runs"]})
            continue
        thing = (step.args["kind"], step.args["name"], step.args["key"])
        if machine[thing] in step.args["ours"]:
            machine[thing] = INHERITED if step.args.get("inherited") else step.args["old"]


@given(MACHINES, st.lists(CHANGES, min_size=1, max_size=4), st.sampled_from(["first", "last"]))
def test_undo_gives_the_old_machine_back(machine, changes, to):
    states, lines = [dict(machine)], []
    for number, each in enumerate(changes):
        if made := run(machine, each, number):
            states.append(dict(machine))
            lines += made
    undo(machine, lines, plan(lines, to))
    assert machine == (states[0] if to == "first" else states[-2])
    assert plan(lines, to) == []
    undo(machine, lines, plan(lines))
    assert machine == states[0]


@given(MACHINES, CHANGES, CHANGES, st.dictionaries(st.sampled_from(THINGS), BY_HAND))
def test_what_was_changed_by_hand_is_kept(machine, first, second, by_hand):
    before, lines = dict(machine), []
    for number, changes in enumerate((first, second)):
        lines += run(machine, changes, number)
    machine.update(by_hand)
    undo(machine, lines, plan(lines))
    assert machine == {**before, **by_hand}


@given(MACHINES, CHANGES, CHANGES, st.integers(0, 10))
def test_undo_that_was_interrupted_is_finished_by_the_next(machine, first, second, at):
    before, lines = dict(machine), []
    for number, changes in enumerate((first, second)):
        lines += run(machine, changes, number)
    undo(machine, lines, plan(lines)[:at])
    undo(machine, lines, plan(lines))
    assert machine == before
    assert plan(lines) == []


@given(MACHINES, st.lists(CHANGES, min_size=1, max_size=3))
def test_ways_out_go_back_before_anything_is_loosened(machine, changes):
    lines = []
    for number, each in enumerate(changes):
        lines += run(machine, each, number)
    *steps, last = plan(lines)
    assert last.state == "undone"
    ways = [step.args["key"] in ("netvm", "default_netvm") for step in steps]
    assert ways == sorted(ways, reverse=True)
    assert len({step.id for step in steps}) == len(steps)


def change(of, key, old, new, **more):
    return {"change": "property", "of": of, "key": key, "old": old, "new": new, **more}


MADE = [
    {"run": "one"},
    {"making": "sys-vpn"},
    {"made": "sys-vpn", "uuid": "9"},
    change("sys-vpn", "netvm", None, "sys-net", uuid="9"),
    change("sys-vpn", "maxmem", 4000, 600, uuid="9", inherited=True),
    change("work", "netvm", "sys-firewall", "sys-vpn", uuid="1", inherited=True),
]


def test_what_was_made_is_only_taken_off_the_net_and_after_its_clients():
    done = [(step.id, step.args.get("old")) for step in plan(MADE)]
    assert done == [
        ("work: netvm as it was", "sys-firewall"),
        ("sys-vpn: netvm as it was", None),
        ("the run of one: undone", None),
    ]
    (removed,) = plan(MADE, remove=True)[3:]
    assert (removed.state, removed.args) == ("removed", {"name": "sys-vpn", "uuids": ["9"]})
    assert plan([*MADE, {"undone": [1]}], remove=True) == [removed]


def test_what_an_earlier_run_made_goes_back_to_what_that_run_gave_it():
    again = [{"run": "two"}, change("sys-vpn", "netvm", "sys-net", "sys-firewall", uuid="9")]
    step, _ = plan([*MADE, *again], "last")
    assert step.args["old"] == "sys-net"
    assert plan([*MADE, *again], "last", remove=True) == plan([*MADE, *again], "last")


def test_each_qube_that_had_a_name_has_steps_of_its_own():
    """R92. Removed and made again, by the user and by a run: Salt wants every id but once."""
    again = [
        {"run": "two"},
        {"made": "sys-vpn", "uuid": "2b3c4d5e-6f70"},
        change("sys-vpn", "netvm", None, "sys-net", uuid="2b3c4d5e-6f70"),
        change("work", "netvm", "sys-firewall", "sys-vpn", uuid="1a2b3c4d-5e6f", inherited=True),
        change("vault", "netvm", "sys-firewall", None, uuid="4"),
    ]
    lines = [*MADE, *again]
    *steps, _ = plan(lines)
    assert [(step.id, step.args["uuid"]) for step in steps] == [
        ("vault: netvm as it was", "4"),
        ("work: netvm as it was (1a2b3c4d)", "1a2b3c4d-5e6f"),
        ("work: netvm as it was (1)", "1"),
        ("sys-vpn: netvm as it was (2b3c4d5e)", "2b3c4d5e-6f70"),
        ("sys-vpn: netvm as it was (9)", "9"),
    ]
    for at, step in enumerate(steps):
        args = step.args
        after = moved_after(lines, [1, 2], args["name"], args["key"], args["uuid"])
        left = [(line["of"], line["uuid"]) for line, _ in after]
        assert left == [(one.args["name"], one.args["uuid"]) for one in steps[at + 1 :]]


def test_record_knows_which_netvms_somebody_had():
    default = change("dom0", "default_netvm", "sys-firewall", None)
    assert netvms([*MADE, default], "work") == ["sys-firewall", "sys-vpn", "sys-firewall", None]
    assert netvms(MADE, "vault") == []


def test_who_was_in_clear_was_so_by_the_uplink_of_any_run_and_past_the_shelters_of_all():
    wiring = {"work": "sys-firewall", "bank": "sys-mine", "sys-firewall": "sys-net"}
    wiring |= {"sys-mine": "sys-net", "sys-net": None, "sys-wifi": None}
    after = {**wiring, "sys-firewall": "sys-wifi", "sys-mine": "sys-wifi"}
    one = {"uplink": "sys-net", "shelters": ["sys-vpn"], "outside_vpn": []}
    one["services"] = ["sys-vpn", "sys-firewall", "sys-mine"]
    two = {**one, "uplink": "sys-wifi"}
    theirs = ["work", "bank", "sys-firewall", "sys-mine"]
    standing_still = ["sys-net", "sys-wifi"]
    assert again_in_clear(after, wiring, [one, two]) == [*theirs, *standing_still]
    assert again_in_clear(after, wiring, [two]) == standing_still
    for shelters in (["sys-vpn", "sys-mine"], ["sys-mine"]):
        guards = [one, {**two, "shelters": shelters}]
        assert again_in_clear(after, wiring, guards) == ["work", "sys-firewall", *standing_still]
    assert "bank" in again_in_clear(wiring, wiring, guards)


def test_offline_is_ours_only_while_we_are_on_the_way():
    """A run may take a qube off before it moves it; one that is off after the run is the user's."""
    two = [
        {"run": "one"},
        change("work", "netvm", "sys-firewall", None, uuid="1"),
        change("work", "netvm", None, "sys-vpn", uuid="1"),
    ]
    assert plan(two)[0].args["ours"] == ["sys-vpn"]
    assert plan(two[:2])[0].args["ours"] == [None]
    interrupted = [*two, {"run": "u", "undoing": True}, change("work", "netvm", 0, None, uuid="1")]
    assert plan(interrupted)[0].args["ours"] == ["sys-vpn", None]
    later = [*interrupted, {"run": "three"}, change("vault", "netvm", "x", None, uuid="7")]
    assert [one.number for one in qubes_vpn_undo.standing(later)] == [1, 3]
    assert [one.number for one in qubes_vpn_undo.standing(later, "last")] == [3]


def test_options_have_defaults_and_every_problem_is_named():
    assert options(None) == ("first", False, [])
    assert options({"to": "last", "remove": True}) == ("last", True, [])
    *_, problems = options({"to": 1, "remove": "yes", "all": True})
    assert [problem.path for problem in problems] == [
        ("qubes_vpn_undo", "all"),
        ("qubes_vpn_undo", "to"),
        ("qubes_vpn_undo", "remove"),
    ]
