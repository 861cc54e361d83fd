# SPDX-License-Identifier: GPL-2.0-or-later
"""Who sees what, outside of the machine (R04, R05, R08, R70, R88)."""

import itertools

import pytest

import qubes_vpn_model
import qubes_vpn_observers
from qubes_vpn_network import Qube
from qubes_vpn_observers import FACTS, Hop, along

from .pillars import past_vpn, pillar, tunnel


def hops(*roles):
    return tuple(Hop(f"{role}-{place}", role) for place, role in enumerate(roles))


def seen(*roles):
    """``{kind of observer: what it sees}`` of a way from the clients to the uplink."""
    return {each.kind: set(each.sees) for each in along(hops(*roles, "uplink"))}


def ways(**keys):
    return qubes_vpn_observers.ways(qubes_vpn_model.build(pillar(**keys)))


def test_in_clear_your_provider_sees_it_all():
    assert seen("firewall") == {
        "line": {"address", "destinations", "names"},
        "destination": {"address", "destinations"},
    }


def test_simple_moves_it_to_the_vpn_provider():
    """R02: it answers names as well."""
    assert seen("tunnel", "firewall") == {
        "line": {"address", "vpn"},
        "provider": {"address", "account", "vpn", "destinations", "names"},
        "destination": {"vpn", "destinations"},
    }


def test_dns_gives_the_names_to_somebody_else():
    """R03: and that one does not know whose they are."""
    assert seen("firewall", "resolver", "tunnel") == {
        "line": {"address", "vpn"},
        "provider": {"address", "account", "vpn", "destinations"},
        "operator": {"vpn", "names"},
        "destination": {"vpn", "destinations"},
    }


def test_of_two_tunnels_the_entry_knows_who_and_the_exit_where():
    """R88: the exit still knows who pays it."""
    found = along(hops("firewall", "resolver", "tunnel", "tunnel", "uplink"))
    entry, exit = (each for each in found if each.kind == "provider")
    assert (entry.hop, entry.source, entry.sees) == (
        "tunnel-3",
        None,
        {"address", "account", "vpn"},
    )
    assert (exit.hop, exit.source) == ("tunnel-2", "tunnel-3")
    assert exit.sees == {"account", "vpn", "destinations"}
    assert not entry.links()


def test_tor_inside_the_vpn():
    """R88: the line sees the VPN, its provider sees Tor, and neither where you go."""
    assert seen("tor", "firewall", "tunnel") == {
        "line": {"address", "vpn"},
        "provider": {"address", "account", "vpn", "tor"},
        "first relay": {"vpn", "tor"},
        "last relay": {"tor", "destinations", "names"},
        "destination": {"tor", "destinations"},
    }
    assert not any(each.links() for each in along(hops("tor", "firewall", "tunnel", "uplink")))


def test_the_vpn_inside_tor():
    """R88: its provider knows who pays, and where he goes."""
    assert seen("tunnel", "firewall", "tor") == {
        "line": {"address", "tor"},
        "first relay": {"address", "tor"},
        "last relay": {"tor", "vpn"},
        "provider": {"account", "vpn", "tor", "destinations", "names"},
        "destination": {"vpn", "destinations"},
    }


def test_names_through_tor_inside_the_vpn():
    """R88: the last relay carries the questions and cannot read them."""
    assert seen("firewall", "resolver", "tor", "tunnel") == {
        "line": {"address", "vpn"},
        "provider": {"address", "account", "vpn", "tor"},
        "first relay": {"vpn", "tor"},
        "last relay": {"tor", "destinations"},
        "operator": {"tor", "names"},
        "destination": {"tor", "destinations"},
    }


def test_a_resolver_behind_the_tunnel_is_not_asked():
    """What comes to the tunnel first is answered there, whatever is on the way to the uplink."""
    assert "operator" not in seen("tunnel", "resolver")
    assert "names" in seen("tunnel", "resolver")["provider"]


def test_names_that_are_forwarded_are_plain_to_the_exit():
    found = along((Hop("sys-dns", "resolver", plain=True), *hops("tunnel", "uplink")))
    provider = next(each for each in found if each.kind == "provider")
    assert "names" in provider.sees


# --- the same, by packets


class Packet:
    """What is on its way: *to* somebody, as *kind*; inside: what only *to* can unpack."""

    def __init__(self, to, kind, inside=None):
        self.to, self.kind, self.inside = to, kind, inside


def sent(way, packet):
    """The *packet* as it leaves the machine, and whom each carrier on the way sends it to."""
    for hop in way:
        if hop.role == "tunnel" and packet.kind == "question":
            packet = Packet(f"{hop.name}'s resolver", "name")
        elif hop.role == "tor" and packet.kind == "question":
            packet = Packet(f"{hop.name}'s last relay", "name")
        elif hop.role == "resolver" and packet.kind == "question":
            packet = Packet(f"{hop.name}'s operator", "encrypted", Packet(None, "name"))
        if hop.role == "tunnel":
            packet = Packet(hop.name, "vpn", packet)
        elif hop.role == "tor":
            packet = Packet(hop.name, "tor", packet)
    return packet


def told_by(packet):
    """What whoever sees *packet* go by learns from it."""
    return {
        "vpn": {"vpn"},
        "tor": {"tor"},
        "data": {"destinations"},
        "question": {"names"},
        "name": {"names"},
        "encrypted": set(),
    }[packet.kind]


def watched(way):
    """``{(kind, hop): what it sees}``, by following a packet and a question from the line on."""
    found = {}

    def see(who, *what):
        found.setdefault(who, set()).update(*what)

    roles = {hop.name: hop.role for hop in way}
    for packet in (sent(way, Packet("site", "data")), sent(way, Packet("any", "question"))):
        source, own = {"address"}, {"address"}
        see(("line", None), own, told_by(packet))
        while packet.kind in ("vpn", "tor"):
            name, inner = packet.to, packet.inside
            if roles[name] == "tunnel":
                see(("provider", name), source, {"account", "vpn"}, told_by(inner))
            else:
                see(("first relay", name), source, {"tor"})
                see(("last relay", name), {"tor"}, told_by(inner))
            source, packet = {"vpn" if roles[name] == "tunnel" else "tor"}, inner
        if packet.kind == "data":
            see(("destination", None), source, {"destinations"})
        elif packet.kind == "encrypted":
            see(("operator", packet.to.removesuffix("'s operator")), source, {"names"})
    return found


@pytest.mark.parametrize("length", range(6))
def test_it_is_what_packets_show(length):
    """R88: any number of tunnels, resolvers, firewalls and Tor gateways in any order."""
    for roles in itertools.product(("tunnel", "tor", "resolver", "firewall"), repeat=length):
        way = hops(*roles, "uplink")
        found = {(each.kind, each.hop): set(each.sees) for each in along(way)}
        assert found == watched(way), roles


def test_each_sees_the_address_of_the_one_before():
    """R88: what a capture there shows as the source."""
    found = along(hops("tunnel", "firewall", "tor", "tunnel", "uplink"))
    assert [(each.kind, each.source) for each in found] == [
        ("line", None),
        ("provider", None),
        ("first relay", "tunnel-3"),
        ("last relay", "tor-2"),
        ("provider", "tor-2"),
        ("destination", "tunnel-0"),
    ]


def test_every_fact_has_words():
    """And each can be seen by somebody."""
    every = along(hops("tunnel", "tor", "uplink"))
    assert {fact for each in every for fact in each.sees} == set(FACTS)


# --- of a pillar


def test_the_ways_of_a_pillar():
    """R05, R06: clients of one netvm together, who is offline left out."""
    document = past_vpn(
        routes={
            "qubes": {"work": "sys-firewall", "tv": "sys-firewall-novpn", "notes": "none"},
        },
        outside_vpn=["tv"],
    )
    inside, clear = qubes_vpn_observers.ways(qubes_vpn_model.build(document))
    assert (inside.clients, inside.default) == (("work",), True)
    assert [hop.role for hop in inside.hops] == ["firewall", "resolver", "tunnel", "uplink"]
    assert (clear.clients, clear.default) == (("tv",), False)
    assert [each.kind for each in clear.observers] == ["line", "destination"]
    assert (inside.known, clear.known) == (True, True)


def test_who_is_behind_whonix():
    """R08: as the pillar places it; unmanaged, its way on is not known."""
    routes = {"qubes": {"anon": "sys-whonix"}}
    behind = ways(routes=routes, whonix="behind_vpn")[1]
    assert [hop.role for hop in behind.hops] == ["tor", "firewall", "resolver", "tunnel", "uplink"]
    alone = ways(routes=routes)[1]
    assert [hop.role for hop in alone.hops] == ["tor"]
    assert (behind.known, alone.known) == (True, False)
    routed = ways(routes={"qubes": {"anon": "sys-whonix", "sys-whonix": "sys-vpn"}})[1]
    assert [hop.role for hop in routed.hops] == ["tor", "tunnel", "uplink"]


def test_what_a_resolver_forwards_is_in_the_pillar():
    keys = {"forwarding": {"corp.example": ["10.64.0.1:5353"]}}
    document = pillar(resolvers={"sys-dns": {"dnscrypt": keys}}, tunnels={"sys-vpn": tunnel()})
    model, problems = qubes_vpn_model.read(document)
    assert not [each for each in problems if "forwarding" in each.path], problems
    way = qubes_vpn_observers.ways(model)[0]
    assert [hop.plain for hop in way.hops] == [False, True, False, False]


def test_who_has_tor_only_if_there_is_a_gateway():
    """R10: a pillar alone does not know the machine, so both ways are told, and when."""
    default, tor = ways(layout="canonical")
    assert (default.clients, default.without_gateway) == (
        ("personal", "work"),
        ("comms", "untrusted"),
    )
    assert (tor.clients, tor.with_gateway) == ((), ("comms", "untrusted"))
    shown = qubes_vpn_observers.text([default, tor]).splitlines()
    assert shown[0] == (
        "personal, work, every other qube; comms, untrusted if there is no sys-whonix -> "
        "sys-firewall -> sys-dns -> sys-vpn -> sys-net"
    )
    assert "comms, untrusted if there is sys-whonix -> sys-whonix" in shown
    told = qubes_vpn_observers.data([default, tor])
    assert [each["with_gateway"] for each in told] == [[], ["comms", "untrusted"]]


def test_the_second_way_is_told_where_nobody_else_takes_it():
    tor, other = ways(layout={"comms": {}}, routes={"default": "keep"})
    assert qubes_vpn_observers.title(other).startswith("comms if there is no sys-whonix -> sys-fi")
    assert qubes_vpn_observers.title(tor) == "comms if there is sys-whonix -> sys-whonix"
    (must, _) = ways(layout={"comms": {"netvm": "sys-whonix"}})[::-1]
    assert (must.clients, must.with_gateway) == (("comms",), ())


# --- of a machine


def qube(name, netvm, role, way):
    return Qube(name, "AppVM", "red", netvm, None, True, role, way)


def test_the_ways_of_a_machine():
    """As it is wired, whatever a pillar promises: here two tunnels that nobody else is behind."""
    qubes = [
        qube("sys-net", None, "uplink", "uplink"),
        qube("entry", "sys-net", "tunnel", "sheltered"),
        qube("exit", "entry", "tunnel", "sheltered"),
        qube("work", "exit", "client", "sheltered"),
        qube("mail", "exit", "client", "sheltered"),
        qube("lost", "gone", "client", "closed"),
        qube("vault", None, "client", "offline"),
    ]
    (way,) = qubes_vpn_observers.ways_of(qubes)
    assert way.clients == ("work", "mail")
    assert [hop.name for hop in way.hops] == ["exit", "entry", "sys-net"]
    assert [each.hop for each in way.observers] == [None, "entry", "exit", None]
    assert qubes_vpn_observers.text([way]).endswith(
        "Both who you are and where you go: the VPN provider of exit."
    )


def test_when_nobody_gets_out():
    assert qubes_vpn_observers.text([]) == "Nobody gets out."


def test_what_is_told_of_a_way_that_is_not_known():
    """R08: of Whonix' gateway where the pillar leaves its netvm alone."""
    alone = ways(routes={"qubes": {"anon": "sys-whonix"}})[1:]
    shown = qubes_vpn_observers.text(alone)
    assert "anon -> sys-whonix\n" in shown
    assert "Nobody of them sees both who you are and where you go.\n" in shown
    assert shown.endswith("How sys-whonix gets out is not known: told as if it hung on the uplink.")
