# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0's steps of an undo, as :mod:`qubes_vpn_undo` orders them.

What is as it was is left alone; so is what the formula did not set, for then somebody has changed
it since.  Nobody gets out in clear who is not in clear now and was not before the undone runs.
Each step returns None, or why it changed nothing.
"""

import time
from typing import NamedTuple

import qubes_vpn_bypass
import qubes_vpn_guard
import qubes_vpn_moves
import qubes_vpn_undo
import qubes_vpn_ways
from qubes_vpn_qubesd import INHERITED, Refused, in_words, rules_text, shown
from qubes_vpn_shelters import FLAG

#: Properties whose values are names of qubes: of qubes, and of dom0.
_QUBES = ("netvm", "template", "default_dispvm", "management_dispvm")
_GLOBALS = (
    *("default_netvm", "default_template", "default_dispvm", "management_dispvm"),
    *("updatevm", "clockvm"),
)
#: Where nothing is known of a pillar, every way out may be one in clear.
_NO_PROMISE = {"uplink": "", "shelters": [], "services": [], "outside_vpn": []}
_AS_IT_WAS = "as it was before"


def restored(machine, changes, name, kind, key, old, ours, runs, inherited=False, uuid=None):
    """Puts back *key* of *name*, of the *kind* that the record has it as.

    ours: the values that the formula gave it.  runs: numbers of the undone runs.  inherited: *old*
    was nobody's choice.
    """
    machine.undoing()
    if not machine.may_undo:
        _refuse_early(machine, runs)
        machine.may_undo = True
    if kind not in ("global", "file") and (gone := _is_other(machine, name, uuid)):
        return gone
    known = {
        "property": _property,
        "feature": _feature,
        "firewall": _firewall,
        "global": _global,
        "file": _file,
    }
    return known[kind](machine, changes, _What(name, key, old, ours, inherited, runs, uuid))


def removed(machine, changes, name, uuids):
    """Removes *name* if its uuid is one of *uuids*, those of the qubes that the formula made.

    A qube of the user's that has files in it stays (R10).
    """
    if machine.klass(name) is None:
        return f"there is no '{name}' any more"
    if machine.value(name, "uuid") not in uuids:
        return f"'{name}' is another one than the formula made: it stays."
    if machine.running(name):
        command = qubes_vpn_moves.shut_down_first(machine, name)
        raise Refused(f"'{name}' runs. Shut it down ({command}), then run this again.")
    if users := _users(machine, name):
        raise Refused(
            f"'{name}' is in use: it is {', '.join(users)}. Let each of them have another one, "
            "then run this again."
        )
    klass = machine.klass(name)
    if klass == "AppVM" and _holds_files(machine, name):
        return (
            f"'{name}' was made by the formula, and has somebody's files in it by now: it stays. "
            f"If they are not needed: qvm-remove {name}."
        )
    with in_words(f"'{name}' could not be removed"):
        machine.remove(name)
    changes["qube"] = {"old": klass, "new": "removed"}
    return None


def undone(machine, changes, name, runs):
    """Writes down that *runs* have been undone, so that a later undo leaves them alone."""
    machine.undone(runs)
    changes["record"] = {"old": name, "new": "undone"}
    guards = qubes_vpn_undo.before(machine.recorded(), runs)[1] or [_NO_PROMISE]
    for way in qubes_vpn_ways.of_dom0(machine, qubes_vpn_guard.guard_of(guards[-1])):
        machine.remark(f"Past the VPN, as the machine is now: {way}")


def _holds_files(machine, name):
    """Whether a halted qube of the layout has been used: no service qube, nor a tunnel's home."""
    is_service = machine.value(name, "provides_network") or machine.feature(name, FLAG)
    return not is_service and machine.written(name, "private")


def _users(machine, name):
    """What the qube *name* is to others: ``netvm of work``..."""
    return [
        f"{key} of {each}"
        for each in machine.names()
        for key in _QUBES
        if each != name and machine.value(each, key) == name
    ] + [f"{key} of dom0" for key in _GLOBALS if machine.named(key) == name]


def cleaned(machine, changes, name):
    """Takes away *name*, what the formula keeps in dom0, when nothing of it is needed any more."""
    if left := qubes_vpn_undo.standing(machine.recorded()):
        raise Refused(
            f"{name}: the record still has what was there before the runs of "
            f"{', '.join(run.time for run in left)}, and without it nobody can put that back. Undo "
            "them first (qubesctl state.sls qubes.network.undo)."
        )
    if half := sorted(each for each in machine.unfinished() if machine.klass(each) is not None):
        raise Refused(
            f"{name}: a note says that {', '.join(half)} may be half made. If the pillar names it, "
            "run qubes.network.sys-vpn once more, which completes it, and undo that. Else remove "
            f"it (qvm-remove {half[0]})."
        )
    qubes_vpn_bypass.closed(machine, changes, name)
    machine.forget(changes)
    return None if changes else "there are none"


class _What(NamedTuple):
    """What is to be put back; see :func:`restored`."""

    name: str
    key: str
    old: object
    ours: list
    inherited: bool
    runs: list
    uuid: str | None

    def left_alone(self, now, is_old, is_ours):
        """Why there is nothing to do, or None."""
        if is_old:
            return _AS_IT_WAS
        if not is_ours:
            return (
                f"{self.name}: {self.key} is {_text(now)}, which somebody has set since. It is "
                f"kept; before, it was {_text(self.old)}."
            )
        return None


def _text(value):
    return rules_text(value).replace("\n", ", ") if isinstance(value, list) else shown(value)


def _is_other(machine, name, uuid):
    if machine.klass(name) is None:
        return f"there is no qube '{name}' any more"
    if machine.value(name, "uuid") != uuid:
        return f"'{name}' is another qube than the one that was changed: it stays as it is."
    return None


def _property(machine, changes, what):
    name, key = what.name, what.key
    if why := _property_left(machine, what):
        return why
    value = INHERITED if what.inherited else what.old
    if key == "netvm":
        _move(machine, changes, what, value)
    else:
        if key == "provides_network":
            _refuse_in_use(name, machine.wiring())
        machine.set(name, {key: value}, changes)
    return None


def _property_left(machine, what):
    """Why a property stays as it is, or None."""
    now, inherits = machine.value(what.name, what.key), machine.inherits(what.name, what.key)
    is_old = inherits if what.inherited else (now == what.old and not inherits)
    is_ours = _is_ours(machine, what.name, what.key, what.ours)
    return what.left_alone(now, is_old, is_ours) or _lost(machine, what)


def _is_ours(machine, name, key, ours):
    """Whether a property has a value that the formula gave it."""
    if machine.klass(name) is None or machine.inherits(name, key):
        return False
    return machine.value(name, key) in ours or (key == "netvm" and name in machine.parked)


def _lost(machine, what):
    """Why what was there before cannot come back."""
    is_qube = what.key in (*_QUBES, *_GLOBALS) and what.old and not what.inherited
    if is_qube and machine.klass(what.old) is None:
        return (
            f"{what.name}: {what.key} was {what.old}, and there is no such qube any more. It stays "
            "as it is."
        )
    return None


def _refuse_in_use(name, wiring):
    """qubesd accepts the reset of provides_network, and leaves clients without a way out."""
    clients = [each for each, netvm in wiring.items() if netvm == name]
    if clients:
        raise Refused(
            f"'{name}' provided no network before, and now it is the netvm of "
            f"{', '.join(clients)}. Give each of them another one, then run this again."
        )


def _feature(machine, changes, what):
    if why := _feature_left(machine, what):
        return why
    now = machine.feature(what.name, what.key)
    machine.set_feature(what.name, what.key, now, what.old)
    changes[what.key] = {"old": now, "new": what.old}
    if machine.feature(what.name, what.key) != what.old:
        raise Refused(f"{what.name}: feature {what.key} reads back differently.")
    return None


def _feature_left(machine, what):
    now = machine.feature(what.name, what.key)
    return what.left_alone(now, now == what.old, now in what.ours)


def _firewall(machine, changes, what):
    if why := _firewall_left(machine, what):
        return why
    machine.set_rules(what.name, _in_force(what.old), changes)
    return None


def _firewall_left(machine, what):
    now = machine.rules(what.name)
    is_ours = now in [_in_force(rules) for rules in what.ours]
    return what.left_alone(now, now == _in_force(what.old), is_ours)


def _in_force(rules):
    """Without those that have expired, which qubesd forgets by itself."""
    now = time.time()
    return [
        rule
        for rule in rules
        if not any(
            word.startswith("expire=") and int(word.removeprefix("expire=")) <= now
            for word in rule.split(" comment=")[0].split()
        )
    ]


def _global(machine, changes, what):
    """Unset and None are the same here: each of these has None as its default."""
    if why := _global_left(machine, what):
        return why
    if what.key == "default_netvm":
        _move(machine, changes, what, what.old)
    else:
        machine.set_named(what.key, what.old, changes)
    return None


def _global_left(machine, what):
    now = machine.named(what.key)
    is_ours = now in what.ours or what.key in machine.parked
    return what.left_alone(now, now == what.old, is_ours) or _lost(machine, what)


def _file(machine, changes, what):
    """The policy file: the only one that the formula writes."""
    now = machine.policy_text()
    if why := what.left_alone("there", now == what.old, now in what.ours):
        return why
    machine.set_policy(what.old)
    changes[what.key] = {"old": "the formula's", "new": "removed" if what.old is None else "back"}
    return None


# --- what would stop it half way


def _refuse_early(machine, runs):
    """Before the first write: no template of what runs, no netvm that somebody would hang on."""
    lines = machine.recorded()
    pending = list(_pending(machine, qubes_vpn_undo.restorable(lines, runs)))
    for _kind, what in pending:
        if what.key == "template" and machine.running(what.name):
            raise Refused(
                f"{what.name} is running, and its template can change only while it is halted. "
                f"Shut it down ({qubes_vpn_moves.shut_down_first(machine, what.name)}), then run "
                "this again. Nothing is undone yet."
            )
    before = qubes_vpn_undo.before(lines, runs)[0] or {}
    then = _foreseen(machine, pending)
    for _kind, what in pending:
        if what.key == "provides_network":
            _refuse_in_use(what.name, then)
    for name in sorted(qubes_vpn_undo.tunnels(lines, runs)):
        keys = [what.key for kind, what in pending if what.name == name and _loosens(kind, what)]
        clients = [each for each in then if _way_to(name, each, then)]
        new = [each for each in clients if _way_to(name, each, then) != _way_to(name, each, before)]
        if keys and new:
            raise Refused(
                f"{name} would be as it was before it was made a VPN qube ({', '.join(keys)}), and "
                f"{', '.join(new)} would still hang on it, which is not known to have been so "
                f"then. Give each of them another netvm (qvm-prefs {new[0]} netvm none), then run "
                "this again. Nothing is undone yet."
            )


def _pending(machine, things):
    """``(kind, what)`` of those *things*, arguments of :func:`restored`, that would change."""
    left = {
        "property": _property_left,
        "feature": _feature_left,
        "firewall": _firewall_left,
        "global": _global_left,
    }
    for args in things:
        kind, name = args["kind"], args["name"]
        if kind == "file" or (kind != "global" and _is_other(machine, name, args.get("uuid"))):
            continue
        inherited, uuid = args.get("inherited", False), args.get("uuid")
        what = _What(name, args["key"], args["old"], args["ours"], inherited, args["runs"], uuid)
        if not left[kind](machine, what):
            yield kind, what


def _foreseen(machine, pending):
    """The wiring once all that is *pending* is done."""
    then, default = machine.wiring(), machine.default_netvm()
    heirs = set(qubes_vpn_moves.inheriting(machine, then))
    for _kind, what in pending:
        if what.key == "default_netvm":
            default = what.old
        elif what.key == "netvm" and what.inherited:
            then[what.name] = None  # a template's; of others see below
            if machine.klass(what.name) not in qubes_vpn_moves.NO_CLIENT:
                heirs.add(what.name)
        elif what.key == "netvm":
            then[what.name] = what.old
            heirs.discard(what.name)
    return {**then, **dict.fromkeys(heirs, default)}


def _loosens(kind, what):
    """Whether putting it back may let through what a tunnel does not."""
    if what.key == "netvm":
        return what.inherited or what.old is not None
    return kind == "firewall" or what.key in ("template", "service.qubes-vpn")


def _way_to(tunnel, name, wiring):
    """By whom *name* gets to *tunnel*, itself first; empty if it does not."""
    way = qubes_vpn_guard.path(name, wiring)
    return way[: way.index(tunnel)] if tunnel in way else []


# --- ways out


def _move(machine, changes, what, value):
    """A change of netvms, as a run makes it, by what the undone runs promised."""
    lines = machine.recorded()
    wiring, guards = qubes_vpn_undo.before(lines, what.runs)
    wiring, guards = wiring or {}, guards or [_NO_PROMISE]
    now, default = machine.wiring(), what.key == "default_netvm"
    heirs = qubes_vpn_moves.inheriting(machine, now)
    netvm = machine.default_netvm() if value is INHERITED else value
    moved = heirs if default else [what.name]
    after = {**now, **dict.fromkeys(moved, netvm)}
    guard = {**guards[-1], "outside_vpn": qubes_vpn_undo.again_in_clear(after, wiring, guards)}
    guard["upstreams"] = wiring  # what the undone runs promised is over
    things = qubes_vpn_undo.moved_after(lines, what.runs, what.name, what.key, what.uuid)
    later = _later(machine, things)
    coming = [*later["qubes"], *(heirs if later["default"] else ())]
    opened = qubes_vpn_guard.opened(now, after, qubes_vpn_guard.guard_of(guard))
    if names := [name for name in opened if name not in coming]:
        differing = _differing(names, after, wiring, moved)
        raise Refused(_opening(what, names, _reason(machine, differing)))
    if default:
        qubes_vpn_moves.default_netvm(machine, changes, shown(value), guard, later=later)
    else:
        qubes_vpn_moves.put_back(machine, changes, what.name, value, guard, later)
    then = machine.wiring()
    machine.parked |= {name for name in later["qubes"] if now[name] and not then[name]}
    if later["default"] and machine.default_netvm() is None:
        machine.parked.add("default_netvm")
    _tell_open(changes, now, then, guard)


def _later(machine, things):
    """Whom later steps give a netvm, as :mod:`qubes_vpn_moves` has it, but for what they leave."""
    ours = {
        (line["of"], line["key"]): ours
        for line, ours in things
        if line["change"] == "global" or not _is_other(machine, line["of"], line.get("uuid"))
    }
    defaults = ours.get(("dom0", "default_netvm"), ())
    return {
        "qubes": [
            name
            for (name, key), values in ours.items()
            if key == "netvm" and _is_ours(machine, name, key, values)
        ],
        "default": "none" if machine.default_netvm() in defaults else None,
    }


def _differing(names, after, wiring, moved):
    """``{name: netvm}`` on the ways of *names* that this step leaves as it is and was not so."""
    ways = [each for name in names for each in qubes_vpn_guard.path(name, after)]
    return {
        name: after[name]
        for name in ways
        if name not in moved and (name not in wiring or after[name] != wiring[name])
    }


def _reason(machine, differing):
    """Why a way that goes back is not the one that it was, in words, as far as it is known."""
    half = [name for name in differing if name in machine.unfinished()]
    if half:
        return f": an interrupted run left {', '.join(half)} half made"
    lines = machine.recorded()
    if any(netvm not in qubes_vpn_undo.netvms(lines, name) for name, netvm in differing.items()):
        return ": somebody has changed a way out since"
    return ""


def _opening(what, names, reason):
    return (
        f"{what.name}: with {what.key} as it was ({_text(what.old)}), {', '.join(names)} would "
        f"be in clear, which is not so now, and before it was not so by this way{reason}. This "
        "step changed nothing. Take offline who is named "
        f"(qvm-prefs {names[0]} netvm none), and run this again."
    )


def _tell_open(changes, now, then, guard):
    """Says who may be in clear that was not for certain.

    Behind a netvm that is offline somebody may be in clear or not; by another way it is told.
    """
    rules = qubes_vpn_guard.guard_of(guard)
    names = [
        name
        for name in qubes_vpn_guard.rerouted(now, then)
        if name not in rules.services
        and qubes_vpn_guard.may_be_in_clear(name, then, rules)
        and not qubes_vpn_guard.is_in_clear(name, now, rules)
    ]
    if names:
        changes["in clear again"] = {"old": None, "new": ", ".join(sorted(names))}
