# SPDX-License-Identifier: GPL-2.0-or-later
"""The second lock: no change of netvms may let anybody out in clear (R05, R12)."""

from hypothesis import given, settings
from hypothesis import strategies as st

from qubes_vpn_guard import (
    Guard,
    exposed,
    is_in_clear,
    may_be_in_clear,
    opened,
    path,
    weakened,
)

QUBES = [f"q{number}" for number in range(7)]
names = st.sampled_from(QUBES)
some = st.lists(names, max_size=3, unique=True).map(tuple)
wirings = st.fixed_dictionaries({name: st.none() | names for name in QUBES})
guards = st.builds(
    Guard,
    uplink=names,
    shelters=some,
    services=some,
    outside_vpn=some,
    sheltered=some,
    former=some,
)
#: A promise about a machine of "net" (uplink), "vpn" (tunnel) and "fw" (firewall).
GUARD = Guard("net", shelters=("vpn",), services=("vpn", "fw"), outside_vpn=("games",))
CLOSED = {"net": None, "vpn": "net", "fw": "vpn", "work": "fw", "games": "fw", "off": None}


def test_a_client_moved_past_the_tunnel_is_opened():
    assert opened(CLOSED, {**CLOSED, "work": "net"}, GUARD) == ["work"]


def test_an_offline_qube_connected_in_clear_is_opened():
    assert opened(CLOSED, {**CLOSED, "off": "net"}, GUARD) == ["off"]


def test_a_firewall_moved_past_the_tunnel_opens_its_clients():
    """Except those that the user wants outside."""
    assert opened(CLOSED, {**CLOSED, "fw": "net"}, GUARD) == ["work"]


def test_a_service_qube_is_opened_unless_it_is_to_be_in_clear_in_the_end():
    """R12: what it sends itself, such as a resolver's queries."""
    guard = GUARD._replace(sheltered=("fw",))
    assert opened(CLOSED, {**CLOSED, "fw": "net"}, guard) == ["fw", "work"]


#: Two tunnels in a row before; now Tor in the exit's tunnel, and the entry is in no pillar.
HOPS = {"net": None, "entry": "net", "exit": "entry", "tor": "net", "fw": "exit", "work": "fw"}
TOR = Guard(
    "net",
    shelters=("exit", "tor"),
    services=("exit", "fw"),
    outside_vpn=(),
    upstreams={"exit": "net", "tor": "exit", "fw": "tor"},
)


def test_who_passes_one_of_two_is_weakened():
    """R88: for as long as it is so, the exit's provider sees both ends."""
    moved = {**HOPS, "exit": "net"}
    assert opened(HOPS, moved, TOR) == []
    assert weakened(HOPS, moved, TOR, {}) == {"fw": {"tor"}, "work": {"tor"}}
    assert weakened(HOPS, {**moved, "fw": None}, TOR, {}) == {}


def test_who_passes_what_he_is_to_pass_or_passed_before_is_not():
    moved = {**HOPS, "tor": "exit", "exit": "net", "fw": "tor"}
    assert weakened(HOPS, moved, TOR, {}) == {}
    assert weakened(moved, {**moved, "fw": "exit"}, TOR, {}) == {"fw": {"tor"}, "work": {"tor"}}
    assert weakened(HOPS, {**HOPS, "fw": "tor"}, TOR, {"work": "exit"}) == {
        "fw": {"exit"},
        "work": {"exit"},
    }
    assert weakened(HOPS, {**HOPS, "work": "exit"}, TOR, {}) == {}


def test_a_tunnel_without_its_list_is_none_that_he_is_to_pass():
    """R12, R88. Whoever passed it already is no worse off: it may be somebody's VPN."""
    off = {**HOPS, "tor": None, "exit": "tor"}
    guard = TOR._replace(upstreams={"exit": "tor", "tor": "net", "fw": "exit"})
    assert weakened(off, {**off, "tor": "net"}, guard, {}) == {}
    behind = {"fw": {"exit"}, "work": {"exit"}}
    assert weakened(off, {**off, "tor": "net"}, guard, {}, ["exit"]) == behind
    assert weakened({**off, "tor": "entry"}, {**off, "tor": "net"}, guard, {}, ["exit"]) == behind
    on = {**off, "tor": "net"}
    assert weakened(on, {**on, "tor": "entry"}, guard, {}, ["exit"]) == {}


def test_who_hung_on_a_qube_that_gets_its_first_netvm_was_offline():
    """R88: a client that default_netvm names, and no uplink."""
    before = {"net": None, "exit": "net", "tor": "exit", "work": None, "heir": "work"}
    guard = TOR._replace(upstreams={"exit": "net", "tor": "exit"})
    after = {**before, "work": "exit"}
    assert weakened(before, after, guard, {"heir": "tor"}) == {"heir": {"tor"}}


def test_a_route_says_what_a_client_is_to_pass():
    """R06: its netvm leads through the tunnel alone by now, and it is to go on in Tor."""
    before = {"net": None, "exit": "net", "tor": "exit", "fw": "tor", "work": "fw"}
    guard = TOR._replace(upstreams={"exit": "net", "fw": "exit", "tor": "fw"})
    after = {**before, "fw": "exit"}
    assert weakened(before, after, guard, {}) == {}  # as documented: work hangs on fw
    assert weakened(before, after, guard, {"work": "tor"}) == {"work": {"tor"}}


def test_an_undo_goes_by_what_was_there():
    """Of whom it takes offline for good, what he passes now counts."""
    before = {"net": None, "exit": "net", "tor": "exit", "fw": "tor", "work": "fw"}
    undo = TOR._replace(upstreams={**before, "work": None})
    assert weakened(before, {**before, "work": "exit"}, undo, {}) == {"work": {"tor"}}


def test_who_was_behind_a_tunnel_that_is_none_any_more_is_opened():
    """The next pillar calls it a firewall; without that line its clients were refused, too."""
    guard = GUARD._replace(shelters=("vpn-2",), services=("vpn-2", "vpn", "fw"))
    before = {**CLOSED, "vpn-2": "net"}
    assert opened(before, {**before, "fw": "net"}, guard) == []
    former = guard._replace(former=("vpn",))
    assert opened(before, {**before, "fw": "net"}, former) == ["work"]
    assert opened(before, {**before, "work": "net"}, former) == ["work"]


def test_the_uplink_of_this_pillar_may_have_been_a_tunnel():
    guard = Guard("vpn", ("vpn-2",), ("vpn-2", "fw"), (), former=("vpn",))
    before = {"net": None, "vpn": None, "fw": "vpn", "fw-2": None, "work": "fw"}
    assert opened(before, {**before, "work": "vpn"}, guard) == ["work"]
    assert opened(before, {**before, "work": "vpn"}, guard._replace(former=())) == []


def test_whonix_gateway_behind_a_vpn_is_no_shelter_of_its_own():
    """R08. Its clients are safe on any way of its, and itself only behind the VPN."""
    guard = GUARD._replace(shelters=("vpn", "tor"))
    before = {**CLOSED, "tor": "fw", "anon": "tor"}
    after = {**before, "fw": "net"}
    assert opened(before, after, guard) == ["work"]
    behind = guard._replace(sheltered=("tor",))
    assert opened(before, after, behind) == ["tor", "work"]
    assert opened(after, {**after, "tor": "net"}, behind) == []  # it was in clear already
    assert exposed("tor", after, behind, provides=True)
    assert not exposed("anon", after, behind, provides=False)


def test_a_qube_behind_a_netvm_of_somebody_else_is_opened():
    """A netvm that the pillar does not know may be an uplink."""
    before = {**CLOSED, "other-net": None}
    assert opened(before, {**before, "work": "other-net"}, GUARD) == ["work"]


def test_clients_of_a_service_that_is_not_wired_yet_are_offline():
    before = {**CLOSED, "vpn": None}
    assert opened(before, {**before, "off": "fw"}, GUARD) == []


def test_who_is_behind_a_vpn_that_the_pillar_does_not_know_is_opened():
    """The change of provider and topology in one edit, and the VPN that a guide set up."""
    before = {**CLOSED, "old-vpn": "net", "fw": "old-vpn"}
    assert opened(before, {**before, "fw": "net"}, GUARD) == ["work"]


def test_who_is_behind_a_proxy_that_is_offline_is_opened():
    before = {**CLOSED, "proxy": None, "work": "proxy"}
    assert opened(before, {**before, "proxy": "net"}, GUARD) == ["proxy", "work"]


def test_a_template_behind_the_tunnel_is_opened_like_any_other():
    before = {**CLOSED, "template": "fw"}
    assert "template" in opened(before, {**before, "fw": "net"}, GUARD)


def test_whose_way_out_stays_the_same_is_not_opened():
    before = {**CLOSED, "other-net": None, "old": "other-net"}
    assert opened(before, {**before, "off": "vpn"}, GUARD) == []


def test_who_was_in_clear_may_stay_so():
    """A machine before its first run: nothing is refused for what is open already."""
    before = {**CLOSED, "fw": "net"}
    assert opened(before, {**before, "work": "net"}, GUARD) == []


@given(wiring=wirings, guard=guards, name=names)
def test_cutting_a_netvm_opens_nobody(wiring, guard, name):
    assert opened(wiring, {**wiring, name: None}, guard) == []


@settings(max_examples=300)
@given(wiring=wirings, guard=guards, name=names)
def test_certainly_in_clear_is_possibly_in_clear(wiring, guard, name):
    """Unless the uplink is said to be a service itself, or hangs on something."""
    if guard.uplink not in guard.services and is_in_clear(name, wiring, guard):
        assert wiring[guard.uplink] is None
        assert may_be_in_clear(name, wiring, guard)


def test_what_a_qube_itself_sends_is_exposed():
    """R07: who fetches updates, or sets the clock, needs no client."""
    machine = {**CLOSED, "other-net": None, "novpn": "net"}
    sends = {name: exposed(name, machine, GUARD, name.endswith(("net", "fw"))) for name in machine}
    assert {name for name, out in sends.items() if out} == {"net", "other-net", "novpn"}
    assert not exposed("fw", {**CLOSED, "fw": None}, GUARD, provides=True)  # not wired yet


@settings(max_examples=300)
@given(wiring=wirings, guard=guards, name=names, client=names, provides=st.booleans())
def test_whose_client_is_certainly_in_clear_is_exposed(wiring, guard, name, client, provides):
    wired = guard.uplink not in guard.services and wiring[client] == name
    if wired and is_in_clear(client, wiring, guard):
        assert exposed(name, wiring, guard, provides)


@given(wiring=wirings, guard=guards)
def test_no_change_opens_nobody(wiring, guard):
    assert opened(wiring, wiring, guard) == []


@settings(max_examples=300)
@given(wiring=wirings, guard=guards, name=names)
def test_a_shelter_on_the_way_always_closes(wiring, guard, name):
    own = {name} & set(guard.sheltered)  # Whonix' gateway, behind a VPN
    if set(path(name, wiring)) & (set(guard.shelters) - own):
        assert not may_be_in_clear(name, wiring, guard)
        assert not is_in_clear(name, wiring, guard)


@settings(max_examples=300)
@given(wiring=wirings, guard=guards, name=names)
def test_who_is_in_clear_gets_to_an_end_that_is_not_ours(wiring, guard, name):
    """Stated the other way round, as reachability."""
    ends = {end for end in QUBES if wiring[end] is None and end not in guard.services}
    ways, shelters = {name}, set(guard.shelters) - ({name} & set(guard.sheltered))
    while True:  # everything that *name* can reach through qubes that are no shelters
        more = ways | {wiring[here] for here in ways - shelters} - {None}
        if more == ways:
            break
        ways = more
    reached = (ways - shelters - {name}) & ends
    assert may_be_in_clear(name, wiring, guard) == bool(reached)


@settings(max_examples=300)
@given(before=wirings, after=wirings, guard=guards)
def test_only_clients_that_nobody_wants_outside_are_named(before, after, guard):
    for name in opened(before, after, guard):
        assert name not in guard.outside_vpn
        assert name not in guard.services or name in guard.sheltered
        assert not is_in_clear(name, before, guard)
        changed = {here for here in QUBES if before[here] != after[here]}
        assert changed & set(path(name, after))


@given(before=wirings, after=wirings, guard=guards, more=some)
def test_more_shelters_never_open(before, after, guard, more):
    """Who is in clear can only become fewer with every shelter more."""
    wider = guard._replace(shelters=guard.shelters + more)
    for name in QUBES:
        assert may_be_in_clear(name, after, guard) or not may_be_in_clear(name, after, wider)
        assert is_in_clear(name, after, guard) or not is_in_clear(name, after, wider)


@given(wiring=wirings, name=names)
def test_a_path_ends(wiring, name):
    """In spite of loops, which a machine cannot have and a plan must survive."""
    way = path(name, wiring)
    assert len(set(way)) == len(way) <= len(QUBES)


def test_nobody_is_safe_behind_a_tunnel_without_a_list():
    """R12, R42: of a former life, offline until its netvm gets one."""
    before = {"net": None, "old": None, "vpn": "old", "work": "vpn"}
    rules = GUARD._replace(shelters=("vpn",), services=("vpn", "old"))
    after = {**before, "old": "net"}
    assert opened(before, after, rules) == []
    assert opened(before, after, rules, unlisted=["vpn"]) == ["vpn", "work"]
