# SPDX-License-Identifier: GPL-2.0-or-later
"""The ready-made topologies with real packets (R04-R06, R62, R70, R88, R90).

Everybody outside of the machine sees what `qubes_vpn_observers` says, and nothing else; and what
breaks in a chain of two tunnels, or of a tunnel and Tor, closes the way and opens none.
"""

import ipaddress
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

import qubes_vpn_observers as observers
from qubes_vpn_formula.lab import salvo, seen
from qubes_vpn_formula.lab.capture import Captured
from qubes_vpn_formula.lab.debian import NotReachable
from qubes_vpn_formula.lab.killswitches import Absent
from qubes_vpn_formula.lab.machine import SERVER
from qubes_vpn_formula.lab.oracle import Endpoint, Oracle
from qubes_vpn_formula.lab.packets import decode
from qubes_vpn_formula.lab.seen import Seen
from qubes_vpn_formula.lab.topology import Topology, pillar
from qubes_vpn_formula.lab.tornet import RELAYS, TorNetwork
from qubes_vpn_formula.lab.traffic import new_marker

pytestmark = [pytest.mark.usefixtures("namespaces"), pytest.mark.timeout(300)]

#: Seen in every run of the tests; the others are `slow`.
FAST = "dns-tor-vpn"
WITHOUT_TOR = ("simple", "dns", "sandwich", "parallel", "multihop")
WITH_TOR = ("tor-over-vpn", "vpn-over-tor", "dns-tor-vpn", "mixed")
#: Its rules gone: a gateway that forwards, as any netvm does.
FORWARDS = "add table inet tor_gateway"


@pytest.fixture(scope="module")
def network(namespaces, tmp_path_factory):
    try:
        with TorNetwork(tmp_path_factory.mktemp("tor")) as made:
            made.wait()
            yield made
    except NotReachable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"Debian 13 cannot be had: {error}")


@pytest.fixture
def machine(request, tmp_path) -> Callable[..., Topology]:
    """Makes machines that end with the test."""
    made = []

    def make(document: dict, **more: object) -> Topology:
        if document["topology"] in WITH_TOR:
            more["network"] = request.getfixturevalue("network")
        folder = tmp_path / str(len(made))
        folder.mkdir()
        try:
            made.append(Topology(document, folder, **more))
        except NotReachable as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"Debian 13 cannot be had: {error}")
        return made[-1]

    yield make
    for one in made:
        one.close()


def watched(topology: Topology, folder) -> Seen:
    """Every client's visit, and all that was seen meanwhile."""
    with seen.watched(topology, folder) as found:
        for client in topology.model.routes:
            found.visits[client] = seen.visit(topology, client)
    return found


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == FAST else pytest.mark.slow)
        for name in (*WITHOUT_TOR, *WITH_TOR)
    ],
)
def test_everybody_sees_what_the_table_says(machine, tmp_path, name):
    """And not what it says of another order.  Then it breaks, and nothing gets out (R62)."""
    topology = machine(pillar(name))
    found, table = watched(topology, tmp_path), seen.table(topology)
    assert seen.differences(topology, found, table) == []
    way = next(one for one in observers.ways(topology.model) if "client-1" in one.clients)
    for swapped in ((*way.hops[:-1][::-1], way.hops[-1]), way.hops[1:]):
        if seen.told(swapped) != seen.told(way.hops):
            assert seen.differences(topology, found, {**table, "client-1": seen.told(swapped)})
    assert attacked(topology, tmp_path, *BREAKS[name]) == []


@pytest.mark.slow
def test_a_gateway_past_which_packets_go_is_seen(machine, tmp_path):
    """R90: it forwards them, so the VPN provider has where they go, and Tor's relays nothing."""
    topology = machine(pillar("dns-tor-vpn"), rules=FORWARDS)
    said = "\n".join(seen.differences(topology, watched(topology, tmp_path), seen.table(topology)))
    assert "client-1: ('provider', 'sys-vpn'): sees where you go" in said
    assert "client-1: ('last relay', 'sys-whonix'): does not see where you go" in said
    found = attacked(topology, tmp_path, TOR_KILLED)
    assert any(line.startswith("1 sys-vpn: ") for line in found), found


# --- what breaks


def leaks(topology: Topology, found: Seen, markers: dict[bytes, float]) -> list[str]:
    """What has left the machine of what must not: `STEP PLACE: PACKET`.

    At the line only what goes to the tunnel's server or the relays next to it.  Of the salvos
    nothing anywhere, not even out of what still works: a tunnel, or Tor.
    markers: of each step, and when it began.
    """
    every = next(iter(markers)).partition(b"-step")[0]
    verdict = Oracle(_at_the_line(topology), every).judge(Captured(found.frames["isp"]))
    start = found.frames["isp"][0].time
    bad = [(start + leak.time, "isp", leak.packet) for leak in verdict.leaks]
    targets = {ipaddress.ip_address(address).packed for address in SERVER.values()}
    for place in seen.arrivals(topology, found):
        for frame in found.frames[place]:
            packet = decode(frame.data)
            if every in frame.data or packet.destination in targets:
                bad.append((frame.time, place, packet))
    return found.trouble + [
        f"{sum(begun <= when for begun in markers.values())} {place}: {packet}"
        for when, place, packet in sorted(bad, key=lambda one: one[0])
        if packet.kind not in _CHATTER
    ]


#: ICMPv6 that a kernel sends by itself.
_CHATTER = (131, 132, 133, 143)


def _at_the_line(topology: Topology) -> list[Endpoint]:
    for name in reversed(topology.model.path(topology.model.default)):
        if tunnel := topology.lab.tunnels.get(name):
            return [Endpoint(tunnel.protocol, tunnel.server, tunnel.port)]
        if name in topology.gateways:
            return [Endpoint("tcp", address, 7000, 7001) for address in RELAYS.values()]
    raise AssertionError("nothing carries its clients")


class Step(NamedTuple):
    """Something breaks.  broken: the qube; do: called with the machine."""

    broken: str
    do: Callable[[Topology], None]


def attacked(topology: Topology, folder, *steps: Step) -> list[str]:
    """What has got out of salvos after each step, from all qubes that are behind what broke.

    And from the one that broke; but not from a gateway, whose rules are not the formula's.
    """
    own, markers = new_marker(), {}
    with seen.watched(topology, folder) as found:
        for number, step in enumerate(steps, 1):
            marker = own + b"-step%d" % number
            markers[marker] = time.time()
            step.do(topology)
            for name, qube in topology.lab.qubes.items():
                way = topology.model.path(topology.model.routes.get(name, name))
                if step.broken in way and name not in topology.gateways:
                    sent = salvo.fire(qube, salvo.salvo([*SERVER.values()], marker))
                    is_client = name in topology.model.routes
                    assert salvo.offered(sent) or not is_client, f"{name}: no way: {sent.errors}"
    return leaks(topology, found, markers)


def down(name: str) -> Step:
    return Step(name, lambda topology: topology.tunnel_down(name))


TOR_KILLED = Step("sys-whonix", lambda topology: topology.gateways["sys-whonix"].kill())
TOR_AGAIN = Step("sys-vpn", lambda topology: topology.gateways["sys-whonix"].up())
TOR_READY = Step("sys-vpn", lambda topology: topology.gateways["sys-whonix"].ready())
#: The tunnel hangs on the gateway itself, which holds nobody to a list.
FIREWALL_GONE = Step("sys-vpn", lambda topology: topology.replug("sys-vpn", "sys-whonix"))
#: What breaks, one after the other.
BREAKS = {
    **{name: (down("sys-vpn"),) for name in ("simple", "dns", "sandwich", "parallel")},
    "tor-over-vpn": (TOR_KILLED, down("sys-vpn"), TOR_AGAIN),
    "mixed": (TOR_KILLED, down("sys-vpn"), TOR_AGAIN),
    "multihop": (down("sys-vpn"), down("sys-vpn-entry")),
    "vpn-over-tor": (TOR_KILLED, down("sys-vpn"), TOR_AGAIN, TOR_READY, FIREWALL_GONE),
    "dns-tor-vpn": (TOR_KILLED, down("sys-vpn"), TOR_AGAIN),
}


@pytest.mark.slow
def test_without_a_killswitch_what_breaks_is_seen(machine, tmp_path):
    """R90: the inner tunnel is held to its server by the outer one's qube; the outer by nobody."""
    topology = machine(pillar("multihop"), killswitch=Absent())
    found = attacked(topology, tmp_path, *BREAKS["multihop"])
    assert not [line for line in found if line.startswith("1 ")], found
    assert any(line.startswith("2 isp: ") for line in found), found


@pytest.mark.slow
def test_before_tor_the_firewall_between_holds_a_tunnel_without_a_killswitch(machine, tmp_path):
    """R88: without it, what passes a tunnel that is down comes out of Tor's last relay."""
    topology = machine(pillar("vpn-over-tor"), killswitch=Absent())
    found = attacked(topology, tmp_path, down("sys-vpn"), FIREWALL_GONE)
    assert not [line for line in found if line.startswith("1 ")], found
    assert any(line.startswith("2 tor: ") for line in found), found
