# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0's steps that move qubes from one netvm to another, on a machine that may be running.

Every move asks the guard first.  Whom it would put in clear, or whose netvm makes it a loop, is
taken offline before it if a later step of the same run brings that qube back (*later*); otherwise
the move is refused, with nothing changed.  A run that is killed in between leaves them offline.

later: ``{"qubes": [name...], "default": netvm or None, "lists": {tunnel: [rule...]}, "routes":
{client: netvm}, "otherwise": {client: netvm}}``, whom later steps give a netvm, what one of them
sets as default_netvm, the firewall lists that they give, the clients' netvms, and what these are
where there is no such qube.  A run that gives no list, as that of qubes.layout, has all tunnels'
lists there, and no ``qubes``.
restart_clients: what happens to running clients whose connections a move breaks: ``never`` (moved
as they run, and that is said), ``ask`` (refused) or ``yes`` (shut down, moved, started again).
"""

import contextlib
from typing import NamedTuple

import qubesadmin.exc

import qubes_vpn_guard
import qubes_vpn_net
import qubes_vpn_shelters
from qubes_vpn_finding import some
from qubes_vpn_qubesd import INHERITED, Refused, in_words, meant, shown
from qubes_vpn_reading import FROZEN

#: Classes of qubes that hold software for others, and dom0 itself: never somebody's client.
NO_CLIENT = ("TemplateVM", "AdminVM")


class _Move(NamedTuple):
    """A change of netvms.

    what: its name in messages.  moved: who gets *netvm* by it.  write: makes the change.
    """

    what: str
    moved: list
    netvm: str | None
    write: object


class _Off(NamedTuple):
    """Who is taken offline before a move.

    discarded: preloaded disposables, which qubesd makes anew.  default: whether default_netvm
    becomes none, and with it its *heirs*.  names: qubes, one by one.
    """

    discarded: list
    heirs: list
    default: bool
    names: list

    def wiring(self, before):
        """The wiring *before*, after all of them are off."""
        if not (self.discarded or self.heirs or self.names):
            return before
        after = {name: netvm for name, netvm in before.items() if name not in self.discarded}
        return {**after, **dict.fromkeys([*self.heirs, *self.names], None)}


def netvm(
    machine,
    changes,
    name,
    netvm,
    guard,
    later=None,
    restart_clients="never",
    otherwise=None,
    waits=False,
):
    """Hangs a qube on *netvm* (``none``: on nothing), as its own choice, not an inherited one.

    otherwise: its netvm where there is no qube *netvm*; None: then the step is refused.
    waits: whether it is offline until the pillar has an allowlist for it, which is told.
    """
    need(machine, name)
    if otherwise and machine.klass(netvm) is None:
        machine.remark(f"There is no {netvm}, so {name} hangs on {otherwise}: not Tor, the VPN.")
        netvm = otherwise
    netvm = meant(netvm)
    if machine.klass(name) in NO_CLIENT:
        raise Refused(f"'{name}' is a {machine.klass(name)}: templates update without a netvm.")
    if netvm is not None:
        _need_netvm(machine, netvm)
    if machine.value(name, "netvm") == netvm and not machine.inherits(name, "netvm"):
        return
    _hang(machine, changes, name, netvm, guard, later, restart_clients)
    if waits:
        _tell_waiting(machine, name)


def put_back(machine, changes, name, value, guard, later):
    """Hangs a qube on what it had: a name, None, or INHERITED."""
    if value is not None and value is not INHERITED:
        _need_netvm(machine, value)
    if machine.klass(name) in NO_CLIENT:
        machine.set(name, {"netvm": value}, changes)
    else:
        _hang(machine, changes, name, value, guard, later, "never")


def _hang(machine, changes, name, value, guard, later, restart_clients):
    """*value*: the qube's own choice, or INHERITED."""
    netvm = machine.default_netvm() if value is INHERITED else value
    before = _look(machine)
    move = _Move(
        what=f"{name} -> {shown(netvm)}",
        moved=[name],
        netvm=netvm,
        write=lambda: machine.set(name, {"netvm": value}, changes),
    )
    in_the_way = _loop(name, netvm, before, later or {}) + _preloads(machine, name)
    _make(machine, changes, move, before, in_the_way, guard, later or {}, restart_clients)
    _tell_disposables(machine, name, netvm)


def default_netvm(machine, changes, name, guard, restart_clients="never", later=None):
    """Sets dom0's default_netvm: the netvm of every qube that has none of its own choice."""
    netvm = meant(name)
    if machine.default_netvm() == netvm:
        return
    if netvm is not None:
        _need_netvm(machine, netvm)
    before = _look(machine)
    heirs = inheriting(machine, before)
    _refuse_loop_of_heirs(heirs, netvm, before)
    preloaded = [heir for heir in heirs if _is_preloaded(machine, heir)]
    heirs = [heir for heir in heirs if heir not in preloaded]
    move = _Move(
        what=f"default_netvm {shown(netvm)}",
        moved=heirs,
        netvm=netvm,
        write=lambda: machine.set_default_netvm(netvm, heirs, changes),
    )
    _make(machine, changes, move, before, preloaded, guard, later or {}, restart_clients)


def need(machine, name):
    """Refuses a step about a qube that is not there."""
    if machine.klass(name) is None:
        raise Refused(f"there is no qube '{name}'. Create it, or take it out of the pillar.")


def shut_down_first(machine, name):
    """The command that shuts a running qube down: qubesd refuses while somebody on it runs.

    With ``--wait`` qvm-shutdown tries again, after each round, whom qubesd refused.
    """
    wiring = machine.wiring()
    clients = [
        each
        for each in wiring
        if each != name and name in qubes_vpn_guard.path(each, wiring) and machine.running(each)
    ]
    clients.sort(key=lambda each: (-len(qubes_vpn_guard.path(each, wiring)), each))
    if clients:
        return f"qvm-shutdown --wait {' '.join([*clients, name])}"
    return f"qvm-shutdown {name}"


def _look(machine):
    """The wiring of the machine, and who runs, as they are now."""
    machine.look_again()
    return machine.wiring()


def _make(machine, changes, move, before, in_the_way, guard, later, restart_clients):
    """Makes a move: everything that can refuse it comes before the first write."""
    off = _off(machine, move, before, in_the_way, guard, later)
    cleared = off.wiring(before)
    after = {**cleared, **dict.fromkeys(move.moved, move.netvm)}
    _refuse_frozen(machine, move, [*move.moved, *off.names, *off.heirs])
    users = _users(machine, before, after, guard)
    if users and restart_clients == "ask":
        raise Refused(_ask(move, users))
    machine.moving(before, guard)
    with _restarted(machine, changes, move, users if restart_clients == "yes" else []):
        runs = any(machine.running(name) for name in move.moved)
        if runs and move.netvm is not None and not machine.running(move.netvm):
            machine.start(move.netvm, changes)
        _take_off(machine, changes, off)
        try:
            move.write()
        except Refused as refused:
            text = str(refused)
            if isinstance(refused.__cause__, qubesadmin.exc.QubesVMNotStartedError):
                text = f"{move.what} was not made: {move.netvm} is off by now. Run this again."
            raise Refused(text) from refused
    if users and restart_clients == "never":
        machine.remark(f"{move.what} breaks connections of what is running: {', '.join(users)}.")
    _tell_idle(machine, before, after, guard)
    _tell_bare(machine, before, after, guard)


# --- who is in the way


def _off(machine, move, before, in_the_way, guard, later):
    """Whom to take offline before *move*; refused when one of them would not come back."""
    rules = qubes_vpn_shelters.promise(machine, guard)
    after = {**before, **dict.fromkeys(move.moved, move.netvm)}
    unlisted = qubes_vpn_shelters.unlisted(machine, rules, later.get("lists", {}))
    routes = {**_routes(machine, before, rules, later), **dict.fromkeys(move.moved, move.netvm)}
    weak = qubes_vpn_guard.weakened(before, after, rules, routes, unlisted)
    coming = [name for name in weak if _comes_back(machine, name, later)]
    names = [*in_the_way, *qubes_vpn_guard.opened(before, after, rules, unlisted), *coming]
    discarded = [name for name in dict.fromkeys(names) if _is_preloaded(machine, name)]
    names = [name for name in dict.fromkeys(names) if name not in discarded]
    lost = [name for name in names if name not in later.get("qubes", ())]
    default = False
    heirs = []
    if later.get("default") and any(machine.inherits(name, "netvm") for name in lost):
        default = True
        heirs = inheriting(machine, before)
        discarded += [name for name in heirs if _is_preloaded(machine, name)]
        discarded = list(dict.fromkeys(discarded))
        heirs = [name for name in heirs if name not in discarded]
        lost = [name for name in lost if name not in heirs]
        names = [name for name in names if name not in heirs]
    off = _Off(discarded, heirs, default, names)
    if not lost and (names or heirs):  # the same question about what is really to be done
        after = {**off.wiring(before), **dict.fromkeys(move.moved, move.netvm)}
        lost = qubes_vpn_guard.opened(before, after, rules, unlisted)
        weak = qubes_vpn_guard.weakened(before, after, rules, routes, unlisted)
    if lost and "qubes" not in later and not qubes_vpn_guard.opened(before, after, rules):
        on_it = [name for name in qubes_vpn_guard.path(move.netvm, after) if name in unlisted]
        raise Refused(
            f"{move.what} would put {', '.join(lost)} in clear: {' and '.join(on_it)} lacks the "
            "firewall list that the pillar gives it. This step changed nothing. Run "
            "qubes.network.sys-vpn in dom0 first."
        )
    if lost:
        raise Refused(
            f"{move.what} would put {', '.join(lost)} in clear, and now they are not. This step "
            f"changed nothing. {_ways_out(machine, move, lost)}"
        )
    if weak and not machine.may_undo:  # an undo gets to what was there
        names, lacks = sorted(weak), sorted({each for what in weak.values() for each in what})
        raise Refused(
            f"{move.what} would lead {', '.join(names)} past {', '.join(lacks)}, for a while at "
            f"least. This step changed nothing. {_ways_out(machine, move, names, 'some')}"
        )
    return off


def _routes(machine, wiring, rules, later):
    """What clients are to hang on once the run is through, as far as it is there."""
    default = meant(later.get("default") or "none")
    routes = dict.fromkeys(inheriting(machine, wiring), default) if default else {}
    routes |= later.get("routes", {})
    there = {to for to in routes.values() if to in rules.services or machine.klass(to) is not None}
    otherwise = {**routes, **later.get("otherwise", {})}
    routes = {name: to if to in there else otherwise[name] for name, to in routes.items()}
    return {name: to for name, to in routes.items() if to in there or to in rules.services}


def _comes_back(machine, name, later):
    """Whether a later step gives *name* its netvm, or qubesd makes it anew."""
    inherits = later.get("default") and machine.inherits(name, "netvm")
    return name in later.get("qubes", ()) or inherits or _is_preloaded(machine, name)


def _ways_out(machine, move, lost, past="every"):
    """What to do about whom a move would put past *past* tunnel, in words."""
    if machine.may_undo:  # no pillar is asked
        prefs = ", ".join(f"qvm-prefs {name} netvm none" for name in lost)
        return f"Take offline who is named ({prefs}), and run this again."
    found = []
    if moved := [name for name in lost if name in move.moved]:
        found.append(
            f"{', '.join(moved)}: {move.netvm} leads past {past} tunnel as it hangs now. Run "
            "qubes.network.sys-vpn first, which puts it where the pillar says."
        )
    rest = [name for name in lost if name not in moved]
    routeless = [name for name in rest if not _may_have_route(machine, name)]
    closed = [name for name in routeless if machine.value(name, "auto_cleanup") is True]
    if closed:
        found.append(f"Close the disposables (qvm-shutdown {' '.join(closed)}).")
    if fixed := [name for name in routeless if name not in closed]:
        prefs = ", ".join(f"qvm-prefs {name} netvm none" for name in fixed)
        found.append(f"Take offline what has no use for a netvm ({prefs}).")
    if clients := [name for name in rest if name not in routeless]:
        found.append(
            "Give each of them a route in routes.qubes, or take it offline (qvm-prefs "
            f"{clients[0]} netvm none); without a route it stays offline until 'qvm-prefs "
            f"--default {clients[0]} netvm'. Or name it in outside_vpn with its route, if in clear "
            "is where it belongs."
        )
    return " ".join([*found, "Then run this again."])


def _may_have_route(machine, name):
    """Whether a pillar may name it under routes.qubes for longer than a moment."""
    if machine.klass(name) in NO_CLIENT:
        return False
    return machine.value(name, "auto_cleanup") is not True


def _loop(name, netvm, wiring, later):
    """Who makes *name* -> *netvm* a loop and can be taken off it: a list of one, or of none."""
    if name == netvm:
        raise Refused(f"'{name}' cannot be its own netvm. Name another.")
    way = qubes_vpn_guard.path(netvm, wiring)
    if name not in way:
        return []
    between = way[: way.index(name)]
    for each in reversed(between):
        if each in later.get("qubes", ()):
            return [each]
    raise Refused(f"{name} -> {' -> '.join(way)} would be a loop. Take {between[-1]} off it first.")


def _refuse_loop_of_heirs(heirs, netvm, wiring):
    for name in qubes_vpn_guard.path(netvm, wiring):
        if name in heirs:
            raise Refused(
                f"'{name}' inherits its netvm and {netvm} leads through it: a loop. Give {name} a "
                "netvm of its own first."
            )


def _refuse_frozen(machine, move, names):
    """Qubes lets a qube that is paused keep its old way, and use it for a moment once it goes on.

    For longer if the new netvm is off by then (qubes/vm/mix/net.py, apply_deferred_netvm).
    """
    frozen = [name for name in names if machine.power(name) in FROZEN]
    if frozen:
        raise Refused(
            f"{move.what} would leave {', '.join(frozen)} on the old way: paused or suspended, a "
            "qube changes its netvm only after it goes on. Unpause it (qvm-unpause "
            f"{frozen[0]}) or shut it down, and run this again."
        )
    running = [name for name in move.moved if machine.running(name)]
    if running and move.netvm is not None and machine.power(move.netvm) in FROZEN:
        raise Refused(
            f"{move.netvm} is paused or suspended, and {', '.join(running)} could not be connected "
            f"to it. Unpause it (qvm-unpause {move.netvm}), and run this again."
        )


def _take_off(machine, changes, off):
    """Each write only closes: nobody's way out becomes another one."""
    for name in off.discarded:
        machine.discard(name, changes)
    if off.discarded:
        machine.remark(
            f"{', '.join(off.discarded)}: preloaded with the old netvm, and discarded; qubesd "
            "makes new ones with the next disposable."
        )
    machine.taken_off.update(dict.fromkeys([*off.heirs, *off.names]))
    if off.default:
        with on_the_way(changes) as made:
            machine.set_default_netvm(None, off.heirs, made)
    for name in off.names:
        with on_the_way(changes, name) as made:
            machine.set(name, {"netvm": None}, made)
    if off.heirs or off.names:
        names = ", ".join([*off.heirs, *off.names])
        machine.remark(f"Taken offline first, and brought back by a later step: {names}.")


@contextlib.contextmanager
def on_the_way(changes, name=None):
    """Changes that a later step undoes, told as such."""
    made = {}
    try:
        yield made
    finally:
        for key, change in made.items():
            changes[key if key == "with it" else f"{name or key} on the way"] = change


def tell_offline(machine):
    """Says whom a run that ends here leaves offline: whom it took off, and who hangs on these."""
    if not machine.taken_off:
        return
    with in_words("who is offline now could not be seen"):
        machine.ask_anew(machine.taken_off)
        wiring = machine.wiring()
    off = [name for name in machine.taken_off if name in wiring and wiring[name] is None]
    behind = [
        name
        for name in wiring
        if name not in off
        and machine.klass(name) not in NO_CLIENT
        and set(qubes_vpn_guard.path(name, wiring)) & {*off}
    ]
    if off:
        more = f"; and behind these {', '.join(behind)}" if behind else ""
        machine.remark(f"Offline until a run gets through: {', '.join(off)}{more}.")


# --- running clients


def _users(machine, before, after, guard):
    """Running clients whose way out changes: the move breaks their connections."""
    rerouted = qubes_vpn_guard.rerouted(before, after) - {*guard["services"], guard["uplink"]}
    return [
        name
        for name in after
        if name in rerouted
        and before[name] is not None
        and machine.klass(name) not in NO_CLIENT
        and machine.running(name)
        and machine.power(name) not in FROZEN
        and machine.value(name, "provides_network") is not True
    ]


def _ask(move, users):
    return (
        f"{move.what} would break the connections of {', '.join(users)}, running now: shut down "
        f"what you can spare (qvm-shutdown {' '.join(users)}) and run this again, or write "
        "restart_clients: never (they are moved as they run) or yes (they are restarted)."
    )


@contextlib.contextmanager
def _restarted(machine, changes, move, users):
    """Shuts *users* down, and starts them again afterwards, whether the move was made or not."""
    down = []
    try:
        for name in users:
            if machine.value(name, "auto_cleanup") is True:
                machine.remark(f"{name} would be lost by a restart: it is moved as it runs.")
                continue
            machine.stopping(name)
            try:
                machine.shut_down(name)
            except Refused as refused:
                machine.started(name)
                raise Refused(f"{refused}. {move.what} was not made: it stays as it was.") from None
            down.append(name)
        yield
    except Refused as refused:
        raise Refused(" ".join([str(refused), *_start(machine, changes, down)])) from refused
    if failed := _start(machine, changes, down):
        raise Refused(f"{move.what} is made. {' '.join(failed)}")


def _start(machine, changes, names):
    """Starts what was shut down; a sentence for each that does not."""
    failed = []
    for name in names:
        started = {}
        try:
            machine.start(name, started)
            started[name] = {"old": "running", "new": "restarted"}
        except Refused as refused:
            failed.append(f"{refused}. Start it yourself: qvm-start {name}.")
            started[name] = {"old": "running", "new": "halted"}
        changes.update(started)
        machine.started(name)
    return failed


# --- what is worth a word


def _tell_idle(machine, before, after, guard):
    """Netvms that carry nobody any more and that the pillar does not name are left as they are."""
    named = {*guard["services"], *guard["shelters"], guard["uplink"]}
    emptied = {netvm for netvm in before.values() if netvm} - set(after.values()) - named
    for name in sorted(emptied):
        machine.remark(
            f"{name} carries nobody any more, and the pillar does not name it: it is left as it is."
        )


def _tell_bare(machine, before, after, guard):
    """Tor that the pillar leaves alone, and that this move takes out of a tunnel (R08).

    Its clients are not in clear, so nothing is refused; that Tor is used shows on the line.
    """
    rules = qubes_vpn_guard.guard_of(guard)
    for name in sorted({*rules.shelters} - {*rules.services, *rules.outside_vpn}):
        own = rules._replace(sheltered=(*rules.sheltered, name))
        bare = qubes_vpn_guard.may_be_in_clear(name, after, own)
        if bare and not qubes_vpn_guard.may_be_in_clear(name, before, own):
            way = " -> ".join(qubes_vpn_guard.path(name, after))
            behind = [each for each in after if name in qubes_vpn_guard.path(each, after)[1:]]
            machine.remark(
                f"{way} passes no tunnel now: your line sees that Tor is used. Behind it now: "
                f"{some(sorted(behind)) or 'nobody'}. To hide it, write whonix: behind_vpn, or "
                f"route {name} behind a tunnel under routes.qubes."
            )


def _tell_waiting(machine, name):
    """It was online, and nobody has said in the pillar what it may reach (R11)."""
    rules = machine.rules(name)
    listed = rules[:-1]
    entries = [qubes_vpn_net.written(rule) for rule in listed]
    own = ""
    if listed:
        own = " Its own firewall list stays as it is"
        if rules[-1] == "action=drop" and None not in entries:
            own += f", and as an allowlist it is [{', '.join(map(_quoted, entries))}]"
        own += "."
    machine.remark(f"{name} is offline until layout.{name}.allowlist says what it may reach.{own}")


def _quoted(entry):
    return f'"{entry}"' if entry.startswith("[") else entry


def _tell_disposables(machine, name, netvm):
    """A disposable took its netvm from its template when it was made, and keeps it."""
    if machine.value(name, "template_for_dispvms") is not True:
        return
    for each in machine.names():
        if machine.klass(each) != "DispVM" or machine.value(each, "template") != name:
            continue
        if _is_preloaded(machine, each) or machine.inherits(each, "netvm"):
            continue
        if machine.running(each) and machine.value(each, "netvm") != netvm:
            machine.remark(
                f"{each}, a disposable of {name}, keeps {shown(machine.value(each, 'netvm'))} "
                "until it is closed."
            )


def inheriting(machine, wiring):
    """Whose netvm is default_netvm."""
    return [
        name
        for name in wiring
        if machine.klass(name) not in NO_CLIENT and machine.inherits(name, "netvm")
    ]


def _is_preloaded(machine, name):
    """A disposable that qubesd keeps ready, paused, which nobody uses yet (R4.3).

    It gets a changed default_netvm only a moment after it goes on, and not at all while that netvm
    is off (qubes/vm/mix/net.py); and its template's netvm only by being made anew, which qubesd
    sees to by itself from 4.3.40 on (qubes/vm/mix/dvmtemplate.py).
    """
    return machine.klass(name) == "DispVM" and machine.value(name, "is_preload") is True


def _preloads(machine, template):
    """The preloaded disposables of *template*."""
    if machine.value(template, "template_for_dispvms") is not True:
        return []  # qubesd keeps it true for as long as there is one
    return [
        name
        for name in machine.names()
        if _is_preloaded(machine, name) and machine.value(name, "template") == template
    ]


def _need_netvm(machine, netvm):
    if machine.klass(netvm) is None:
        raise Refused(f"there is no qube '{netvm}' to be a netvm. Create it, or name another.")
    if machine.value(netvm, "provides_network") is not True:
        raise Refused(no_network(netvm))


def no_network(name):
    """Why a qube cannot be a netvm."""
    return (
        f"'{name}' provides no network. Make it a service qube in the pillar, or set 'qvm-prefs "
        f"{name} provides_network true' if it is one."
    )
