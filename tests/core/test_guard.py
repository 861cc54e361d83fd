# SPDX-License-Identifier: GPL-2.0-or-later
"""The second lock: no change of netvms may let anybody out in clear (R05, R12)."""

from hypothesis import given, settings
from hypothesis import strategies as st

from qubes_vpn_guard import Guard, in_clear, opened, path

QUBES = [f"q{number}" for number in range(7)]
names = st.sampled_from(QUBES)
some = st.lists(names, max_size=3, unique=True).map(tuple)
wirings = st.fixed_dictionaries({name: st.none() | names for name in QUBES})
guards = st.builds(Guard, shelters=some, services=some, outside_vpn=some)
#: A promise about a machine of "net" (uplink), "vpn" (tunnel) and "fw" (firewall).
GUARD = Guard(shelters=("vpn",), services=("vpn", "fw"), outside_vpn=("games",))
CLOSED = {"net": None, "vpn": "net", "fw": "vpn", "work": "fw", "games": "fw", "off": None}


def test_a_client_moved_past_the_tunnel_is_opened():
    assert opened(CLOSED, {**CLOSED, "work": "net"}, GUARD) == ["work"]


def test_an_offline_qube_connected_in_clear_is_opened():
    assert opened(CLOSED, {**CLOSED, "off": "net"}, GUARD) == ["off"]


def test_a_firewall_moved_past_the_tunnel_opens_its_clients():
    """Except those that the user wants outside."""
    assert opened(CLOSED, {**CLOSED, "fw": "net"}, GUARD) == ["work"]


def test_a_qube_behind_a_netvm_of_somebody_else_is_opened():
    """A netvm that the pillar does not know may be an uplink."""
    before = {**CLOSED, "other-net": None}
    assert opened(before, {**before, "work": "other-net"}, GUARD) == ["work"]


def test_clients_of_a_service_that_is_not_wired_yet_are_offline():
    before = {**CLOSED, "vpn": None}
    assert opened(before, {**before, "off": "fw"}, GUARD) == []


def test_who_was_in_clear_may_stay_so():
    """A machine before its first run: nothing is refused for what is open already."""
    before = {**CLOSED, "fw": "net"}
    assert opened(before, {**before, "work": "net"}, GUARD) == []


@given(wiring=wirings, guard=guards, name=names)
def test_cutting_a_netvm_opens_nobody(wiring, guard, name):
    assert opened(wiring, {**wiring, name: None}, guard) == []


@given(wiring=wirings, guard=guards)
def test_no_change_opens_nobody(wiring, guard):
    assert opened(wiring, wiring, guard) == []


@settings(max_examples=300)
@given(wiring=wirings, guard=guards, name=names)
def test_a_shelter_on_the_way_always_closes(wiring, guard, name):
    if set(path(name, wiring)) & set(guard.shelters):
        assert not in_clear(name, wiring, guard)


@settings(max_examples=300)
@given(wiring=wirings, guard=guards, name=names)
def test_who_is_in_clear_gets_to_an_end_that_is_not_ours(wiring, guard, name):
    """Stated the other way round, as reachability."""
    ends = {end for end in QUBES if wiring[end] is None and end not in guard.services}
    ways = {name}
    while True:  # everything that *name* can reach through qubes that are no shelters
        more = ways | {wiring[here] for here in ways - set(guard.shelters)} - {None}
        if more == ways:
            break
        ways = more
    reached = (ways - set(guard.shelters) - {name}) & ends
    assert in_clear(name, wiring, guard) == bool(reached)


@settings(max_examples=300)
@given(before=wirings, after=wirings, guard=guards)
def test_only_clients_that_nobody_wants_outside_are_named(before, after, guard):
    for name in opened(before, after, guard):
        assert name not in guard.outside_vpn
        assert name not in guard.services
        assert not in_clear(name, before, guard)
        changed = {here for here in QUBES if before[here] != after[here]}
        assert changed & set(path(name, after))


@given(before=wirings, after=wirings, guard=guards, more=some)
def test_more_shelters_never_open(before, after, guard, more):
    """in_clear can only shrink with every shelter more."""
    wider = guard._replace(shelters=guard.shelters + more)
    for name in QUBES:
        assert in_clear(name, after, guard) or not in_clear(name, after, wider)


@given(wiring=wirings, name=names)
def test_a_path_ends(wiring, name):
    """In spite of loops, which a machine cannot have and a plan must survive."""
    way = path(name, wiring)
    assert len(set(way)) == len(way) <= len(QUBES)
