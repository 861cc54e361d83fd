# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may see what of a machine's clients, outside of the machine: pure functions.

What follows from the order of the qubes alone.  Each tunnel, and Tor, takes all that comes to it
from the clients' side and sends it on with its own address, encrypted up to its operator.  So
whoever looks between two of them sees the address of the one before and that the next is used, and
nothing of what is in it.  Whose VPN two tunnels are is not known here: of one company's, it sees
what both see.  Nor is what clients tell by themselves, and who matches packets by time and amount.
"""

from typing import NamedTuple

import qubes_vpn_finding
import qubes_vpn_guard
import qubes_vpn_network
import qubes_vpn_table
from qubes_vpn_network import CLEAR, CLIENT, RESOLVER, SHELTERED, TUNNEL, UPLINK

#: What somebody may see, with its words.
ADDRESS, ACCOUNT, VPN, TOR = "address", "account", "vpn", "tor"
DESTINATIONS, NAMES = "destinations", "names"
FACTS = {
    ADDRESS: "your line's address",
    ACCOUNT: "who pays",
    VPN: "that a VPN is used",
    TOR: "that Tor is used",
    DESTINATIONS: "where you go",
    NAMES: "the names asked for",
}
#: Of an observer's id: what it is.
LINE, PROVIDER, FIRST, LAST = "line", "provider", "first relay", "last relay"
OPERATOR, DESTINATION = "operator", "destination"
#: Who takes others' packets to an operator of its own: what is seen of it.
_CARRIERS = {TUNNEL: VPN, qubes_vpn_network.TOR: TOR}


class Hop(NamedTuple):
    """A qube on the way out.

    role: of :mod:`qubes_vpn_network`.
    plain: of a resolver, whether it asks for some names in plain behind itself (``forwarding``).
    """

    name: str
    role: str
    plain: bool = False


class Observer(NamedTuple):
    """Somebody outside of the machine.

    kind: one of the above.  hop: the qube's name that brings it in; None of the line and of the
    destination.  sees: the keys of ``FACTS`` that it may see.  source: whose address packets have
    where it looks: a tunnel's name or Whonix' gateway's, None for your line's; of Tor's last relay
    the gateway's, because what comes to it is another relay's.
    """

    kind: str
    hop: str | None
    sees: frozenset
    source: str | None

    def who(self):
        """It in words."""
        return {
            LINE: "your line and its provider",
            PROVIDER: f"the VPN provider of {self.hop}",
            FIRST: "Tor's first relay",
            LAST: "Tor's last relay",
            OPERATOR: f"who runs the resolvers that {self.hop} asks",
            DESTINATION: "the servers that you visit",
        }[self.kind]

    def links(self):
        """Whether it sees both who you are and where you go."""
        return bool(self.sees & {ADDRESS, ACCOUNT} and self.sees & {DESTINATIONS, NAMES})


class Way(NamedTuple):
    """A way out, and who looks at it.

    clients: names of the qubes that take it.  default: whether each other qube does too.
    hops: from the clients' netvm to the uplink.  observers: from the line to the destination.
    known: whether the way is known up to the uplink; what is told of another one is of the way as
    it would be with the last hop right on the uplink.
    with_gateway, without_gateway: of a pillar, whose machine is not known: names of those that take
    it only if there is Whonix' gateway, *gateway*, and only if there is not.
    """

    clients: tuple
    default: bool
    hops: tuple
    observers: tuple
    known: bool = True
    with_gateway: tuple = ()
    without_gateway: tuple = ()
    gateway: str | None = None


def ways(model):
    """Each :class:`Way` of a :class:`qubes_vpn_model.Model`'s clients, the default one first."""
    clients = {}
    if model.default not in ("none", "keep"):
        clients[model.default] = []
    for name, netvm in sorted(model.routes.items()):
        if netvm != "none" and name != model.whonix_gateway:
            clients.setdefault(netvm, []).append(name)
    for netvm in model.otherwise.values():
        clients.setdefault(netvm, [])
    return [_way(model, netvm, names) for netvm, names in clients.items()]


def ways_of(qubes, plain=()):
    """The same of a machine as it is: of :class:`qubes_vpn_network.Qube`.

    plain: names of resolvers that forward some names.
    """
    named = {qube.name: qube for qube in qubes}
    wiring = {qube.name: qube.netvm for qube in qubes}
    clients = {}
    for qube in qubes:
        if qube.role == CLIENT and qube.way in (SHELTERED, CLEAR):
            clients.setdefault(qube.netvm, []).append(qube.name)
    found = []
    for netvm, names in sorted(clients.items(), key=lambda each: each[1]):
        path = [named[name] for name in qubes_vpn_guard.path(netvm, wiring) if name in named]
        hops = tuple(Hop(qube.name, qube.role, qube.name in plain) for qube in path)
        found.append(Way(tuple(names), False, hops, along(hops), hops[-1].role == UPLINK))
    return found


def plain(model):
    """Names of a pillar's resolvers that ask for some names in plain."""
    services = model.services.values()
    return [each.name for each in services if each.dnscrypt and each.dnscrypt["forwarding"]]


def data(found):
    """Ways as plain data, for JSON."""
    return [
        {
            "clients": list(way.clients),
            "default": way.default,
            "with_gateway": list(way.with_gateway),
            "without_gateway": list(way.without_gateway),
            "way": [hop.name for hop in way.hops],
            "known": way.known,
            "observers": [
                {
                    "kind": each.kind,
                    "hop": each.hop,
                    "who": each.who(),
                    "sees": [fact for fact in FACTS if fact in each.sees],
                    "source": each.source,
                }
                for each in way.observers
            ],
        }
        for way in found
    ]


def text(found):
    """Ways as lines for a screen."""
    return "\n\n".join(_text(way) for way in found) or "Nobody gets out."


def _text(way):
    lines = [
        [each.who(), *("sees" if fact in each.sees else "-" for fact in FACTS)]
        for each in way.observers
    ]
    table = qubes_vpn_table.columns(lines, ("who", *FACTS))
    return "\n".join([title(way), *(f"  {line}" for line in table.split("\n")), *remarks(way)])


def title(way):
    """Whose way it is, and which."""
    parts = [
        ([*way.clients, *["every other qube"] * way.default], ""),
        (way.with_gateway, f" if there is {way.gateway}"),
        (way.without_gateway, f" if there is no {way.gateway}"),
    ]
    clients = "; ".join(f"{qubes_vpn_finding.some(names)}{when}" for names, when in parts if names)
    return " -> ".join([clients, *(hop.name for hop in way.hops)])


def remarks(way):
    """What follows from the table of a way, a sentence each."""
    linking = [each.who() for each in way.observers[:-1] if each.links()]
    told = "Nobody of them sees both who you are and where you go."
    if linking:
        told = f"Both who you are and where you go: {', '.join(linking)}."
    if way.known:
        return [told]
    end = way.hops[-1].name
    return [told, f"How {end} gets out is not known: told as if it hung on the uplink."]


def _way(model, netvm, clients):
    names = model.path(netvm)
    hops = tuple(_hop(model, name) for name in names)
    known = names[-1] == model.uplink
    always = tuple(name for name in clients if name not in model.otherwise)
    without = tuple(sorted(name for name, each in model.otherwise.items() if each == netvm))
    perhaps = tuple(name for name in clients if name not in always)
    more = (perhaps, without, model.whonix_gateway)
    return Way(always, netvm == model.default, hops, along(hops), known, *more)


def _hop(model, name):
    if name == model.uplink:
        return Hop(name, UPLINK)
    if name == model.whonix_gateway:
        return Hop(name, qubes_vpn_network.TOR)
    return Hop(name, model.services[name].role, name in plain(model))


def along(hops):
    """Every :class:`Observer` of a way, from the line to the destination.

    hops: from the clients' netvm to the uplink.
    """
    carriers = [hop for hop in reversed(hops) if hop.role in _CARRIERS]
    answering = next((hop for hop in hops if hop.role in (RESOLVER, *_CARRIERS)), None)
    asked = answering if answering and answering.role == RESOLVER else None
    found = [_between(LINE, None, (), carriers[:1])]
    for place, hop in enumerate(carriers):
        before, after = carriers[:place][-1:], carriers[place + 1 :][:1]
        if hop.role == TUNNEL:
            found.append(_between(PROVIDER, hop, before, [hop, *after], ACCOUNT))
        else:
            found.append(_between(FIRST, hop, before, [hop]))
            found.append(_between(LAST, hop, [hop], after))
    # Whoever is the last to unpack it has what is not encrypted by itself.
    open_to_it = {DESTINATIONS} | ({NAMES} if not asked or asked.plain else set())
    found[-1] = found[-1]._replace(sees=found[-1].sees | open_to_it)
    if asked:
        found.append(_between(OPERATOR, asked, carriers[-1:], (), NAMES))
    return (*found, _between(DESTINATION, None, carriers[-1:], (), DESTINATIONS))


def _between(kind, hop, before, used, *more):
    """Who looks where packets have the address of *before*, the carrier nearer to the line.

    before: a list of one; empty where it is your line's address.  used: carriers that it sees.
    """
    carriers = {_CARRIERS[each.role] for each in (*before, *used)}
    own = () if before else (ADDRESS,)
    sees = frozenset((*carriers, *own, *more))
    return Observer(kind, hop and hop.name, sees, before[0].name if before else None)
