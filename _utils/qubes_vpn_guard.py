# SPDX-License-Identifier: GPL-2.0-or-later
"""Would this change of netvms let anybody out in clear who was not?  Pure functions.

The plan's order opens nothing; this is the second lock: dom0 asks it before every change of a
netvm, with the machine as it really is, so that no order and no interrupted run can get past it.
What the pillar does not know counts against the change on both sides: a netvm that it does not name
may be somebody's VPN before, and an uplink after.
"""

from typing import NamedTuple

_NOT_THERE = object()  # None says that a qube has no netvm


class Guard(NamedTuple):
    """What the pillar promises.

    uplink: the qube with the network hardware.
    shelters: qubes whose clients are not in clear (tunnels, and Whonix' gateway for Tor).
    services: every service qube; one without a netvm is not wired yet, so its clients are offline.
    outside_vpn: clients that the user wants in clear.
    sheltered: service qubes and Whonix' gateway whose own way leads through another shelter in the
    end.  They send something themselves, such as queries, updates, Tor's traffic and a tunnel's, by
    which its provider would know the line, so they are not let out on the way either; none is a
    shelter of its own.
    former: what was a shelter and is none by this pillar.  Its clients were not in clear.
    upstreams: what the pillar hangs service qubes and Whonix' gateway on, ``{name: netvm}``; an
    undo: what every qube hung on.
    """

    uplink: str
    shelters: tuple
    services: tuple
    outside_vpn: tuple
    sheltered: tuple = ()
    former: tuple = ()
    upstreams: dict = {}  # noqa: RUF012 (of a tuple, and nobody changes it)


def guard_of(data):
    """The :class:`Guard` of plain data, as a state gets it."""
    lists = {key: tuple(data[key]) for key in ("shelters", "services", "outside_vpn")}
    # A record of an earlier version has none of these keys.
    more = {"sheltered": tuple(data.get("sheltered", ())), "upstreams": data.get("upstreams", {})}
    return Guard(uplink=data["uplink"], **lists, **more)


def opened(before, after, guard, unlisted=()):
    """Names of qubes that may be in clear *after* and were not for certain *before*.

    *before* and *after* map every qube of the machine to its netvm's name or None.  Whoever's way
    out stays the same is not opened by the change.
    unlisted: tunnels that have another firewall list than they are to have.  Nobody is safe behind
    one yet, and what it sends itself may be anything.
    """
    exempt = ({*guard.services} - {*guard.sheltered, *unlisted}) | {*guard.outside_vpn}
    shelters = tuple(name for name in guard.shelters if name not in unlisted)
    wired = guard._replace(services=guard.services + _cut(before, after), shelters=shelters)
    return sorted(
        name
        for name in rerouted(before, after) - exempt
        if may_be_in_clear(name, after, wired) and not is_in_clear(name, before, guard)
    )


def weakened(before, after, guard, routes, unlisted=()):
    """Who passes less *after* than before, and less than he is to pass: ``{name: {what, ...}}``.

    Two tunnels in a row, or Tor and a tunnel, keep from each provider what the other sees; who
    passes one of them alone, for a moment, has told it all.
    routes: what clients are to hang on, ``{name: netvm}``; without one: whoever they hang on.
    unlisted: of :func:`opened`.  Behind one he is as he was before, and not as he is to be.
    *what*: tunnels and the like that are not on his way, and are to be.
    """
    design, found = {**routes, **guard.upstreams}, {}
    were_offline, are_offline = _cut(after, before), _cut(before, after)
    for name in rerouted(before, after):
        passed = _passed(name, before, guard, were_offline)
        now = _passed(name, after, guard, are_offline)
        if now is None or (passed is not None and passed <= now):
            continue
        here = next((each for each in path(name, after) if each in design), None)
        if here is None:
            continue  # nothing is said about his way
        way = path(design[here] if here == name else here, design)
        if lacks := (_closing(way, guard) if way else passed or set()) - (now - {*unlisted}):
            found[name] = lacks
    return found


def _passed(name, wiring, guard, cut):
    """What may hide what *name* sends, on its way out; None where it has none."""
    way = path(name, wiring)[1:]
    last = way[-1] if way else None
    if not way or wiring.get(last) is not None or last in (*guard.services, *guard.shelters, *cut):
        return None
    return _closing(way, guard)


def _cut(before, after):
    """Qubes that lose the netvm that they had, and so are no uplinks: their clients are offline.

    Or were, before they get one: with *after* and *before* the other way round.
    """
    return tuple(name for name in after if after[name] is None and before.get(name) is not None)


def _closing(way, guard):
    """Tunnels and Tor, and whatever the pillar does not know: it may be somebody's VPN."""
    shelters = {*guard.shelters, *guard.former}
    return {*way} - ({*guard.services, guard.uplink} - shelters)


def rerouted(before, after):
    """Names of qubes whose way out is another one *after*."""
    found = more = {name for name in after if before.get(name, _NOT_THERE) != after[name]} | (
        before.keys() - after.keys()
    )
    while more:
        more = {name for name, netvm in after.items() if netvm in more} - found
        found = found | more
    return found & after.keys()


def may_be_in_clear(name, wiring, guard):
    """Whether *name* may have a way out that passes no shelter.

    A way that ends at a qube which the pillar does not wire counts as a way out: it may be an
    uplink that the pillar does not know.
    """
    way = path(name, wiring)
    if len(way) == 1 or set(way) & _shelters_of(name, guard):
        return False
    looped = wiring.get(way[-1]) is not None
    return not looped and way[-1] not in guard.services


def exposed(name, wiring, guard, provides):
    """Whether what *name* itself sends may go out past every shelter.

    provides: whether it provides network.  Such a qube without a netvm may be an uplink.
    """
    if wiring.get(name) is not None:
        return may_be_in_clear(name, wiring, guard)
    known = {*guard.services, *guard.shelters}
    return name == guard.uplink or (provides and name not in known)


def is_in_clear(name, wiring, guard):
    """Whether *name* certainly gets to the uplink past every shelter.

    Only through qubes that the pillar names: any other netvm may be a VPN of somebody else's.
    """
    _, *way = path(name, wiring)
    closed = _shelters_of(name, guard) | {*guard.former}
    if not way or name in closed or wiring.get(guard.uplink) is not None:
        return False
    known = {*guard.services, guard.uplink} - {*guard.shelters, *guard.former}
    return way[-1] == guard.uplink and set(way) <= known


def _shelters_of(name, guard):
    """Whatever closes the way of *name*."""
    return {*guard.shelters} - ({name} & {*guard.sheltered})


def path(name, wiring):
    """Names from *name* upstream, without an end only where there is a loop."""
    names = []
    while name is not None and name not in names:
        names.append(name)
        name = wiring.get(name)
    return names
