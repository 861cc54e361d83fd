# SPDX-License-Identifier: GPL-2.0-or-later
"""From the record to the steps that put back what was replaced.  Pure functions.

A step is :class:`qubes_vpn_plan.Step`, done by ``qubes_vpn_restore``.  What was changed more than
once goes back in one step.  The order is the reverse of the changes, with the ways out before the
rest: nothing about a qube is loosened, and no qube stops providing network, while somebody still
hangs on it.  A qube that the undone runs made is only taken off the net, and removed if asked for.
"""

from typing import NamedTuple

import qubes_vpn_guard
import qubes_vpn_record
from qubes_vpn_plan import Step
from qubes_vpn_problem import Problem, show, suggest

#: The event by which a record tells of a bypass.
BYPASS_OPENED = "bypass opened"
#: The pillar key of the options.
OPTIONS = "qubes_vpn_undo"
#: What is put back of a qube that the undone runs made, before it is removed or left alone.
_OF_MADE = {"netvm": None, "autostart": False}


class Run(NamedTuple):
    """One run's lines.  *undoing*: it was an undo itself."""

    number: int
    time: str
    undoing: bool
    lines: list

    def changed(self):
        """Whether it changed or made anything."""
        return any("change" in line or "made" in line for line in self.lines)


class _Thing(NamedTuple):
    """One thing that was changed: its *first* change, where that is, and the values we gave it.

    values: by the run, of each run the last one; of an undo that was interrupted, all.
    """

    first: dict
    place: int
    values: dict

    def ours(self):
        """The values, each once."""
        values = list(self.values.values())
        return [value for at, value in enumerate(values) if value not in values[:at]]

    def is_way_out(self):
        """Whether it says by which way somebody gets out."""
        kind, key = self.first["change"], self.first["key"]
        return kind in ("global", "file") or (kind == "property" and key == "netvm")


def options(document):
    """``(to, remove, problems)`` of *document*, the value under ``qubes_vpn_undo``."""
    if document is None:
        document = {}
    if not isinstance(document, dict):
        fix = "Write {to: first}, {to: last} or {to: first, remove: true}."
        return None, None, [Problem((OPTIONS,), f"{show(document)} is no mapping", fix)]
    known = {"to": "first", "remove": False}
    problems = [
        Problem((OPTIONS, key), "unknown key", suggest(key, known))
        for key in document
        if key not in known
    ]
    to, remove = ({**known, **document}[key] for key in known)
    if to not in ("first", "last"):
        what = f"{show(to)} is no point to go back to"
        fix = "Write first (before the first run) or last (before the last one)."
        problems.append(Problem((OPTIONS, "to"), what, fix))
    if not isinstance(remove, bool):
        fix = "Write true to remove the qubes and templates that were made, or false."
        problems.append(Problem((OPTIONS, "remove"), f"{show(remove)} is not true or false", fix))
    return to, remove, problems


def runs(lines):
    """The :class:`Run` s of the record's *lines*, oldest first."""
    found = []
    for line in lines:
        if "run" in line:
            found.append(Run(len(found) + 1, line["run"], "undoing" in line, []))
        elif "undone" not in line and "event" not in line:
            found[-1].lines.append(line)
    return found


def standing(lines, to="first"):
    """The runs that changed something and have not been undone; of ``last`` only the last one."""
    undone = {number for line in lines for number in line.get("undone", ())}
    changed = [run for run in runs(lines) if run.changed() and not run.undoing]
    changed = changed[-1:] if to == "last" else changed
    return [run for run in changed if run.number not in undone]


def plan(lines, to="first", remove=False):
    """The steps, in order, that undo the record's *lines*; none when all is undone.

    to: ``first`` (to before the first run) or ``last`` (to before the last one).
    remove: whether the qubes and templates that these runs made are removed, too.
    """
    chosen = standing(lines, to)
    steps = _restored(lines, chosen) if chosen else []
    if any(line["event"] == BYPASS_OPENED for line in qubes_vpn_record.events(lines)):
        why = "an undo leaves no bypass open"
        steps = [Step("bypass: closed", "bypass_closed", {"name": "bypass"}, why), *steps]
    return [*steps, *_removed(lines, to)] if remove else steps


def before(lines, numbers):
    """``(wiring, guards)`` of the runs *numbers*: who hung on what before, and what each promised.

    The wiring is None, and there are no guards, where these runs moved nobody.
    """
    inside = [line for run in runs(lines) if run.number in numbers for line in run.lines]
    wirings = [line["wiring"] for line in inside if "wiring" in line]
    guards = [line["guard"] for line in inside if "guard" in line]
    return (wirings or [None])[0], guards


def again_in_clear(after, wiring, guards):
    """Who may be in clear, for having been so before the undone runs: certainly, or by this way.

    Each of the runs may have had another uplink.  What was a shelter to one of them may have been
    one then, too.
    """
    shelters = tuple({name for guard in guards for name in guard["shelters"]})
    rules = [qubes_vpn_guard.guard_of(guard)._replace(shelters=shelters) for guard in guards]
    return [
        name
        for name in after
        if any(qubes_vpn_guard.is_in_clear(name, wiring, each) for each in rules)
        or qubes_vpn_guard.path(name, after) == qubes_vpn_guard.path(name, wiring)
    ]


def netvms(lines, name):
    """Every netvm that the record's *lines* have as one of *name*, or as dom0's default_netvm."""
    things = ((name, "netvm"), ("dom0", "default_netvm"))
    changes = [line for line in lines if (line.get("of"), line.get("key")) in things]
    return [line[key] for line in changes for key in ("old", "new") if key in line]


def moved_after(lines, numbers, name, key, uuid=None):
    """What the steps after that of *name*'s *key* move: ``[(line of its first change, ours)...]``.

    numbers: of the undone runs.  uuid: which one of that name.
    """
    ways, made, _rest = _parts(lines, numbers)
    things = [*ways, *made]
    firsts = [thing.first for thing in things]
    place = [(line["of"], line["key"], line.get("uuid")) for line in firsts].index(
        (name, key, uuid)
    )
    return [
        (thing.first, thing.ours())
        for thing in things[place + 1 :]
        if thing.first["key"] in ("netvm", "default_netvm")
    ]


def restorable(lines, numbers):
    """Arguments of the steps that put back what the runs *numbers* changed, in their order."""
    return [_restore(thing, numbers, "").args for part in _parts(lines, numbers) for thing in part]


def tunnels(lines, numbers):
    """Names of the tunnels of the runs *numbers*."""
    inside = [line for run in runs(lines) if run.number in numbers for line in run.lines]
    guards = [line["guard"] for line in inside if "guard" in line]
    promised = {name for guard in guards for name in guard["shelters"] if name in guard["services"]}
    return promised | {line["of"] for line in inside if line.get("key") == "service.qubes-vpn"}


def _restored(lines, chosen):
    numbers = [run.number for run in chosen]
    ways, made, rest = _parts(lines, numbers)
    steps = [_restore(thing, numbers, "the ways out first, in reverse") for thing in ways]
    why = "it was not there before: it is taken off the net"
    steps += [_restore(thing, numbers, why) for thing in made]
    steps += [_restore(thing, numbers, "now that nobody hangs on it") for thing in rest]
    ids = [step.id for step in steps]
    # A qube was removed, and made again under the same name: each of them has its steps.
    steps = [
        step._replace(id=f"{step.id} ({step.args['uuid'][:8]})") if ids.count(step.id) > 1 else step
        for step in steps
    ]
    times = [run.time for run in chosen]
    what = f"the run of {times[0]}" if len(times) == 1 else f"the runs of {', '.join(times)}"
    done = {"name": what, "runs": numbers}
    return [*steps, Step(f"{what}: undone", "undone", done, "an undone run is not undone again")]


def _parts(lines, numbers):
    """What the runs *numbers* changed, in the order of the undo.

    The ways out, what they made, as far as it is put back, and the rest.
    """
    inside = [line for run in runs(lines) if run.number in numbers for line in run.lines]
    uuids = {(line["made"], line["uuid"]) for line in inside if "made" in line}
    ways, made, rest = [], [], []
    for thing in _things(lines, numbers):
        first = thing.first
        if (first["of"], first.get("uuid")) in uuids:
            if first["key"] in _OF_MADE:
                now_old = {**first, "old": _OF_MADE[first["key"]], "inherited": False}
                made.append(thing._replace(first=now_old))
        else:
            (ways if thing.is_way_out() else rest).append(thing)
    return ways, made, rest


def _things(lines, numbers):
    """Everything that the runs *numbers* changed, in reverse order of its first change there."""
    found, number, undoing = {}, 0, False
    for place, line in enumerate(lines):
        if "run" in line:
            number, undoing = number + 1, "undoing" in line
        elif "undone" in line:
            for thing in found.values():
                # It got through: what it parked on the way is no longer ours to bring back.
                for key in [key for key in thing.values if isinstance(key, tuple)]:
                    del thing.values[key]
        elif "change" in line:
            key = (line["change"], line["of"], line.get("uuid"), line["key"])
            if key not in found and number in numbers:
                found[key] = _Thing(line, place, {})
            if key in found and "new" in line:
                # A run may take a qube offline before it moves it.  Who is offline after that run
                # was taken off by the user.
                found[key].values[(number, place) if undoing else number] = line["new"]
    return sorted(found.values(), key=lambda thing: -thing.place)


def _restore(thing, numbers, why):
    line = thing.first
    args = {"name": line["of"], "kind": line["change"], "key": line["key"], "old": line["old"]}
    if line.get("inherited"):
        args["inherited"] = True
    if line.get("uuid"):
        args["uuid"] = line["uuid"]
    args |= {"ours": thing.ours(), "runs": numbers}
    return Step(f"{line['of']}: {line['key']} as it was", "restored", args, why)


def _removed(lines, to):
    changed = [run for run in runs(lines) if run.changed() and not run.undoing]
    uuids = {}
    for run in reversed(changed[-1:] if to == "last" else changed):
        for line in reversed([line for line in run.lines if "made" in line]):
            uuids.setdefault(line["made"], []).append(line["uuid"])
    why = "asked for, and made by the formula; what hung on it first"
    return [
        Step(f"{name}: removed", "removed", {"name": name, "uuids": found}, why)
        for name, found in uuids.items()
    ]
