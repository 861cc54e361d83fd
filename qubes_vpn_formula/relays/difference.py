# SPDX-License-Identifier: GPL-2.0-or-later
"""What came, went and changed: between two relay lists, or between endpoints."""

import bisect
import collections
import ipaddress
from typing import NamedTuple


class Change(NamedTuple):
    """One difference.  kind: ``came``, ``went`` or ``changed``.  name: a host name or an endpoint.

    what: in words.
    """

    kind: str
    name: str
    what: str


def of_lists(old, new):
    """Changes of the relays *old* to *new*, by host name; of several of one name, by port too."""
    before, after = _by_name(old), _by_name(new)
    changes = []
    for name in sorted(before.keys() | after.keys()):
        had, has = before.get(name), after.get(name)
        if had and has:
            changes += [Change("changed", name, what) for what in _changed(had, has)]
        else:
            kind = "came" if has else "went"
            changes.append(Change(kind, name, _about(has or had)))
    return changes


def of_endpoints(old, new):
    """Changes of destinations *old* to *new*: what addresses came and went, port by port."""
    before, after = _areas(old), _areas(new)
    changes = []
    for kind, some, others in (("came", after, before), ("went", before, after)):
        for key in sorted(some):
            for network in _outside(some[key], others.get(key, []), key.version):
                text = key._replace(host=str(network)).text
                changes.append(Change(kind, text, ""))
    return changes


def _areas(destinations):
    """First and last addresses as numbers, by destination without a host."""
    areas = collections.defaultdict(list)
    for found in destinations:
        network = ipaddress.ip_network(found.host)
        areas[found._replace(host="")].append((int(network[0]), int(network[-1])))
    return areas


def _outside(areas, others, version):
    """The networks that make up *areas* without *others*."""
    address = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    others = sorted(others)
    for low, high in sorted(areas):
        for first, last in others[max(0, bisect.bisect_left(others, (low,)) - 1) :]:
            if first > high:
                break
            if low < first:
                yield from ipaddress.summarize_address_range(address(low), address(first - 1))
            low = max(low, last + 1)
        if low <= high:
            yield from ipaddress.summarize_address_range(address(low), address(high))


def _by_name(relays):
    found = {}
    for relay in relays:
        name = relay.hostname
        if relay.port:
            name = f"{name}:{relay.port}/{relay.proto}"
        while name in found:  # another address of the same
            name += "'"
        found[name] = relay
    return found


def _about(relay):
    said = [relay.country, relay.city, relay.owner, relay.hosted_by and f"at {relay.hosted_by}"]
    return ", ".join([*filter(None, said), *map(str, relay.addresses[:1])])


def _changed(had, has):
    if had.active != has.active:
        yield "is active again" if has.active else "is inactive"
    if had.active and has.active and set(had.addresses) != set(has.addresses):
        yield f"has another address: {_listed(had.addresses)} -> {_listed(has.addresses)}"
    for what in ("shadowsocks", "quic"):
        old, new = set(getattr(had, what)), set(getattr(has, what))
        if had.active and has.active and old != new:
            yield f"has other addresses for {what}: {len(new - old)} came, {len(old - new)} went"
    if had.owner != has.owner:
        yield f"is {has.owner or 'of an owner not named'}, was {had.owner or 'not named'}"
    if had.hosted_by != has.hosted_by:
        yield f"is hosted by {has.hosted_by or 'no one named'}, was by {had.hosted_by or 'none'}"
    if (had.country, had.city) != (has.country, has.city):
        yield f"has moved: {had.country} {had.city} -> {has.country} {has.city}"
    if had.key != has.key:
        yield "has another public key: set up anew, or it is another machine"


def _listed(addresses):
    return ", ".join(map(str, addresses))
