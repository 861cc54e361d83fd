# SPDX-License-Identifier: GPL-2.0-or-later
"""What everybody outside of a machine has seen of its clients, read off captures.

The facts are those of `qubes_vpn_observers`; what somebody sees is found here in packets alone:

- a place where it looks, in both directions where packets come and go by one cable;
- of these, an address of the line, of a VPN's server or of its clients, of a relay, of the server
  that was visited;
- the word of the client's questions, in whatever it can read.  Who runs the resolver reads what
  was encrypted for it: it has, if the answer is its own.

Who pays is known to a VPN that has unpacked a client's packet: by the key that it was sent with.
"""

import ipaddress
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import qubes_vpn_observers as observers
from qubes_vpn_formula.lab import evidence, senders
from qubes_vpn_formula.lab.capture import Capture, Captured, Frame
from qubes_vpn_formula.lab.chains import CARD
from qubes_vpn_formula.lab.machine import PUBLIC
from qubes_vpn_formula.lab.nameservers import ADDRESSES, ANSWERS
from qubes_vpn_formula.lab.packets import decode
from qubes_vpn_formula.lab.questions import Question, ask
from qubes_vpn_formula.lab.topology import Topology
from qubes_vpn_formula.lab.tornet import RELAYS
from qubes_vpn_formula.lab.traffic import Echo, new_marker, send

#: What a server of the client's own listens on, and what a client asks for names.
_PORT, _ASKED = 80, "10.139.1.1"
_PATIENCE = 10.0
#: Addresses that providers give their clients.
_PROVIDERS = [ipaddress.ip_network(text) for text in ("10.64.0.0/16", "fd64::/16")]
#: An observer: its kind and the qube that brings it in, as `qubes_vpn_observers.Observer` has them.
Who = tuple[str, str | None]
#: What somebody may see, by the keys of `qubes_vpn_observers.FACTS`.
Told = dict[Who, set[str]]
_SHARED = {observers.ADDRESS, observers.ACCOUNT, observers.VPN, observers.TOR}


@dataclass
class Visit:
    """One client's: a connection to a server of its own, and a question for a name.

    server: the address.  word: in the name.  reached: whether the connection came through.
    answer: who answered, by `nameservers.ANSWERS`; empty when nobody did.
    """

    client: str
    server: str
    word: str
    reached: bool = False
    answer: str = ""


@dataclass
class Seen:
    """All that was captured.  visits: by client.  trouble: why something may be missing."""

    visits: dict[str, Visit] = field(default_factory=dict)
    frames: dict[str, tuple[Frame, ...]] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)


@contextmanager
def watched(topology: Topology, folder: Path) -> Iterator[Seen]:
    """Captures at every place outside of the machine meanwhile; all is there at the end.

    The tunnels must be up: a packet of their qubes' own goes through each first.
    """
    lab, network, seen = topology.lab, topology.network, Seen()
    proofs: dict[str, bytes] = {}
    with ExitStack() as stack:

        def capture(place: str, *where: object, **options: object) -> Capture:
            return stack.enter_context(Capture(*where, folder / f"{place}.pcap", **options))

        sys_net = lab.qubes["sys-net"]
        running = {"isp": capture("isp", sys_net, lab.internet, "isp")}
        running["to isp"] = capture("to isp", lab.internet, sys_net, CARD)
        if network:
            running["tor"] = capture("tor", network.router, lab.internet, "tor")
            for name, relay in network.relays.items():
                running[name] = capture(name, network.router, relay, "eth0")
                running[f"to {name}"] = capture(f"to {name}", relay, network.router, name)
        for name, tunnel in lab.tunnels.items():
            device, qube = evidence.server_device(tunnel), lab.qubes[name]
            running[name] = capture(name, qube, lab.internet, device, proven=False)
            proofs[name] = new_marker()
            send(qube, senders.udp(tunnel.inner[0], 9, proofs[name]))
        yield seen
        for place, one in running.items():
            captured = one.finish(proven=place not in proofs)
            _note(seen, place, captured, proofs.get(place))


def _note(seen: Seen, place: str, captured: Captured, proof: bytes | None) -> None:
    seen.frames[place] = captured.frames
    if captured.trouble:
        seen.trouble.append(f"{place}: {captured.trouble}")
    if proof and not captured.marked(proof):
        seen.trouble.append(f"{place}: the control packet did not come out of the tunnel")


def visit(topology: Topology, client: str) -> Visit:
    """Has a client do what is watched, with a server of its own."""
    number = [*topology.model.routes].index(client)
    lab = topology.lab
    made = Visit(client, f"203.0.113.{90 + number}", f"word-{secrets.token_hex(4)}")
    qube = lab.qubes[client]
    answer = ask(qube, Question(_ASKED, f"{made.word}.example.org", wait=_PATIENCE))[0]
    given = {address: name for name, address in ANSWERS.items()}
    made.answer = next((given[one] for one in answer.addresses if one in given), "")
    with Echo(lab.internet, made.server, _PORT) as echo:
        send(qube, senders.tcp(made.server, _PORT, new_marker(), wait=_PATIENCE))
        made.reached = echo.stop() > 0
    return made


def facts(topology: Topology, seen: Seen, made: Visit) -> Told:
    """What everybody who is there has seen of one client's visit."""
    lab = topology.lab
    every = [frame for place in arrivals(topology, seen) for frame in seen.frames[place]]
    found: Told = {}

    def look(who: Who, frames: Iterable[Frame]) -> set[str]:
        found[who] = _facts(topology, made, frames)
        return found[who]

    look((observers.LINE, None), seen.frames["isp"] + seen.frames["to isp"])
    for name, tunnel in lab.tunnels.items():
        own = (observers.PROVIDER, name)
        unpacked = seen.frames[name]
        look(own, (*unpacked, *_to(tunnel.server, every))).update(
            {observers.ACCOUNT} if unpacked else ()
        )
    for name in topology.gateways:
        for kind, relay in ((observers.FIRST, "first"), (observers.LAST, "last")):
            look((kind, name), seen.frames[relay] + seen.frames[f"to {relay}"])
    resolvers = [name for name, member in lab.members.items() if member.role == "resolver"]
    for name in resolvers:
        own = (observers.OPERATOR, name)
        asked = topology.upstream(name)
        answered = made.answer == asked
        look(own, _to(ADDRESSES[asked], every)).update({observers.NAMES} if answered else ())
    look((observers.DESTINATION, None), _to(made.server, every))
    return found


def arrivals(topology: Topology, seen: Seen) -> list[str]:
    """Places where something comes into the internet: from the line, a tunnel, Tor."""
    return [place for place in ("isp", "tor", *topology.lab.tunnels) if place in seen.frames]


def told(hops: Sequence[observers.Hop]) -> Told:
    """What `qubes_vpn_observers` says of a way."""
    return {(each.kind, each.hop): set(each.sees) for each in observers.along(hops)}


def table(topology: Topology) -> dict[str, Told]:
    """What it says of each client of a machine's pillar."""
    ways = observers.ways(topology.model)
    return {client: told(way.hops) for way in ways for client in way.clients}


def differences(topology: Topology, seen: Seen, ways: Mapping[str, Told]) -> list[str]:
    """Where what was seen is not what was told of each client, one line each.

    Who takes the same line, tunnel or gateway for several clients sees of all of them who and what
    carries them; where one goes, and what it asks for, is that client's alone.
    """
    found = list(seen.trouble)
    for client, way in ways.items():
        made = seen.visits[client]
        if not (made.reached and made.answer):
            found.append(f"{client}: no connection, or no answer: {made}")
        for who, measured in facts(topology, seen, made).items():
            mine = way.get(who, set())
            others = set().union(*(each.get(who, set()) for each in ways.values()))
            for what, keys in (
                ("does not see", mine - measured),
                ("sees", measured - mine - (others & _SHARED)),
            ):
                words = ", ".join(observers.FACTS[key] for key in sorted(keys))
                found += [f"{client}: {who}: {what} {words}"] if words else []
        if missing := way.keys() - facts(topology, seen, made).keys():
            found.append(f"{client}: nobody is there: {missing}")
    return found


def _facts(topology: Topology, made: Visit, frames: Iterable[Frame]) -> set[str]:
    servers = {tunnel.server for tunnel in topology.lab.tunnels.values()}
    found = set()
    for frame in frames:
        if made.word.encode() in frame.data.lower():
            found.add(observers.NAMES)
        packet = decode(frame.data)
        for address in filter(None, (packet.source, packet.destination)):
            one = ipaddress.ip_address(address)
            text = str(one)
            if text in PUBLIC.values():
                found.add(observers.ADDRESS)
            if text in servers or any(one in network for network in _PROVIDERS):
                found.add(observers.VPN)
            if text in RELAYS.values():
                found.add(observers.TOR)
            if text == made.server:
                found.add(observers.DESTINATIONS)
    return found


def _to(address: str, frames: Iterable[Frame]) -> list[Frame]:
    wanted = ipaddress.ip_address(address).packed
    return [frame for frame in frames if decode(frame.data).destination == wanted]
