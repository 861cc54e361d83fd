# SPDX-License-Identifier: GPL-2.0-or-later
"""The rule sets of a machine's network qubes, from its pillar: what each has to keep, and when.

A *place* is one qube with one rule set.  A VPN qube has several in its life: closed and alone at
boot, with Qubes' own rules beside it, open, and the moments in between.  They are rendered from the
same files and by the same functions as in the qube.
"""

import ipaddress
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import qubes_vpn_endpoints
import qubes_vpn_resolver
import qubes_vpn_ruleset
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.lab.agent import clients as firewall
from qubes_vpn_formula.paths import formula_root
from qubes_vpn_formula.prove.sources import Part
from qubes_vpn_model import Model, Service
from qubes_vpn_net import Destination, rules

#: Stand-ins for what only the running machine knows: two clients of each service qube, and the
#: resolvers that the tunnel names.  Addresses of the kinds that Qubes and RFC 2544, RFC 5180 have.
CLIENTS = {"vif4.0": ("10.137.0.4", "fd09:24ef:4179::a89:4")}
CLIENTS |= {"vif5.0": ("10.137.0.5", "fd09:24ef:4179::a89:5")}
RESOLVERS = ("198.18.0.53", "198.18.0.54", "2001:2::53")
#: What Qubes gives every qube to ask (qubes-core-admin, ``qubes/vm/mix/net.py``).
VIRTUAL = ("10.139.1.1", "10.139.1.2")
#: From here on what the names on an allowlist resolve to; of the same kinds as the resolvers.
_NAMED = [ipaddress.ip_address(one) for one in ("198.18.1.0", "2001:2::1:0")]
#: Of clients and of devices with a gate, in a qube that is asked what it has loaded.
_MOST = 300
_FILES = "salt/qubes/network/files"
_AGENT = Path(firewall.__file__).parent


@dataclass(frozen=True)
class Facts:
    """What is known of a qube beside its rules.

    tunnels: names of the tunnel's interface.  endpoints: where its own packets may go.
    resolvers: where clients' DNS may go.  clients: {interface: (IPv4, IPv6)} of those that it has.
    guarded: names of devices with a gate.
    """

    tunnels: tuple[str, ...] = ()
    endpoints: tuple[Destination, ...] = ()
    resolvers: tuple[str, ...] = ()
    clients: dict[str, tuple[str, ...]] = field(default_factory=dict)
    guarded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """A rule set, and what must hold in it.

    qube: whose.  stage: when, in words.  parts: nft's input, in order.  devices: names of network
    devices that have to be there for it.  properties: ids.  without: a derived rule set:
    `policies` (each base chain's own policy is not in force yet), `intervals` (interval sets are
    empty for a moment).  between: it is one of the rule sets while rules are loaded, so what is
    claimed is part of P7.  document: instead of text, what `nft -j list ruleset` said in the qube.
    list_of: the qube whose list it is that P8 is about.
    """

    qube: str
    stage: str
    parts: tuple[Part, ...]
    properties: tuple[str, ...]
    facts: Facts
    devices: tuple[str, ...] = ()
    without: str = ""
    between: bool = False
    document: dict[str, Any] | None = None
    list_of: str = ""

    @property
    def text(self) -> str:
        """nft's input."""
        return "".join(part.text for part in self.parts)


LEAKS = ("P1", "P2", "P3", "P4", "P5")


def places(model: Model) -> Iterator[Place]:
    """Every rule set of the machine, in the order of the way from the clients to the uplink."""
    for service in model.services.values():
        if service.role == "tunnel":
            yield from vpn(service)
            yield upstream(service)
        elif service.role == "resolver":
            yield from resolver(service)
    upstreams = {name: one.upstream or "none" for name, one in model.services.items()}
    netvms = {**model.client_routes(), **upstreams}
    for name, entries in model.allowlists.items():
        if (netvm := netvms.get(name, "none")) != "none":
            yield allowlist(name, netvm, entries)


def not_claimed(model: Model) -> tuple[str, ...]:
    """Who is past the VPN by choice, and what is on somebody's way by rules that are none of ours.

    A sentence each.
    """
    gateway, routes = model.whonix_gateway, model.client_routes()
    told = [
        f"{name} goes past the VPN, as the pillar says: no VPN qube's rules are on its way."
        for name, netvm in routes.items()
        if name != gateway and netvm != "none" and model.in_clear(netvm)
    ]
    told += [
        f"updates of {what} are fetched by {name}, past the VPN, as the pillar says."
        for what, name in model.fetched_outside().items()
    ]
    if model.bypass:
        told.append(f"{model.bypass.name} goes past the VPN while a bypass is open.")
    ways = [model.path(name) for name in (*model.services, *routes.values())]
    if model.gateway_netvm is not None or any(gateway in way for way in ways):
        what = "has Whonix' own rules, which are not looked at: that what comes to it leaves by Tor"
        told.append(f"{gateway} {what} alone.")
    return tuple(told)


def vpn(service: Service) -> Iterator[Place]:
    """A VPN qube: P1 to P5 in each moment, P6 where it is open."""
    elements = qubes_vpn_endpoints.elements(service.endpoints)
    tunnels = (service.interface,)
    closed_text = _read(f"{_FILES}/closed.nft")
    gate = Part("killswitch: the uplink's gate", qubes_vpn_ruleset.gates([(2, "eth0")]))

    def part(resolvers: Sequence[str] = ()) -> Part:
        configuration = qubes_vpn_ruleset.Configuration(
            tunnels, service.log_drops, elements, tuple(resolvers)
        )
        whole = qubes_vpn_ruleset.transaction("", configuration)
        return Part("killswitch: what is configured", whole)

    closed = Part(f"{_FILES}/closed.nft", closed_text)
    none = Facts(tunnels, guarded=("eth0",))
    known = replace(none, endpoints=service.endpoints, resolvers=RESOLVERS)
    own, qubes = (closed, gate), (*_base(), closed, gate)

    yield Place(
        service.name,
        "open, with Qubes' own rules",
        (*qubes, part(RESOLVERS)),
        (*LEAKS, "P6"),
        replace(known, clients=CLIENTS),
        ("eth0",),
    )

    def between(stage: str, parts: Sequence[Part], facts: Facts, without: str = "") -> Place:
        return Place(service.name, stage, tuple(parts), LEAKS, facts, ("eth0",), without, True)

    opened = (*own, part(RESOLVERS))
    yield between("at boot, closed, before any other rules", own, none)
    yield between("closed, with Qubes' own rules", qubes, none)
    yield between("open, without Qubes' own rules", opened, known)
    yield between(
        "open, no resolver has answered yet", (*own, part()), replace(known, resolvers=())
    )
    yield between("a load, while no chain's policy is in force yet", opened, known, "policies")
    if elements.ranges4 or elements.ranges6:
        yield between("a load, while interval sets are empty", opened, known, "intervals")


def upstream(service: Service) -> Place:
    """The next qube on the way: P8, what dom0's list lets the VPN qube send."""
    return _listed(service.name, service.upstream or "", service.endpoints, service.endpoints, "P8")


def allowlist(name: str, netvm: str, entries: Sequence[Destination]) -> Place:
    """The netvm of a client that has one: P8, what dom0's list lets the client send."""
    numeric, goals = [], []
    for number, entry in enumerate(entries):
        found = [entry]
        if entry.proto and not entry.version:
            found = [
                entry._replace(version=one.version, host=f"{one + number}/{one.max_prefixlen}")
                for one in _NAMED
            ]
        numeric += found
        if entry.host == "dns":
            found = [
                Destination(4, one, 53, 53, proto) for one in VIRTUAL for proto in ("tcp", "udp")
            ]
        goals += found
    return _listed(name, netvm, numeric, goals, "P8L")


def _listed(
    name: str,
    netvm: str,
    entries: Sequence[Destination],
    goals: Sequence[Destination],
    property: str,
) -> Place:
    """The qube *netvm* with dom0's list of its client *name*.

    entries: what is on the list, host names as addresses.  goals: where that lets it go.
    """
    (device, addresses), *_ = CLIENTS.items()
    listed = rules(entries)
    database = {}
    for address in addresses:
        other = "dst4=" if ":" in address else "dst6="
        own = [rule for rule in listed if other not in rule]
        for number, rule in enumerate(own):
            database[f"/qubes-firewall/{address}/{number:04}"] = rule
        database[f"/qubes-firewall/{address}/policy"] = "drop"
    text = "".join(
        firewall.hook(address) + firewall.rules(address, database, VIRTUAL) for address in addresses
    )
    parts = (*_base({device: addresses}), Part(f"dom0's list of {name}", text))
    facts = Facts(endpoints=tuple(goals), clients={device: addresses})
    return Place(netvm, f"the list of {name}", parts, (property,), facts, list_of=name)


def resolver(service: Service) -> Iterator[Place]:
    """A resolver qube: P3 whether it may answer or not, P4 and P5 by Qubes' own rules."""
    text = _read(f"{_FILES}/dns-closed.nft")
    closed = Part(f"{_FILES}/dns-closed.nft", text)
    opening = Part("resolver: open", qubes_vpn_resolver.transaction("", True))
    facts = Facts(clients=CLIENTS)
    for stage, parts in (
        ("open, with Qubes' own rules", (*_base(), closed, opening)),
        ("closed, with Qubes' own rules", (*_base(), closed)),
        ("at boot, closed, before any other rules", (closed,)),
    ):
        yield Place(service.name, stage, parts, ("P3R",), facts)


def collected(service: Service, document: dict[str, Any]) -> Place:
    """A running qube with what it has loaded, as `nft -j list ruleset` says.

    Its clients are those that Qubes' antispoofing knows, its resolvers those that clients' DNS is
    let to, its uplinks those that are called eth0 or have a gate.
    """
    sets, guarded = {}, {"eth0"}
    for entry in document["nftables"]:
        for kind, one in entry.items():
            if kind == "set":
                sets[one["family"], one["table"], one["name"]] = one.get("elem", [])
            elif kind == "chain" and one["family"] == "netdev":
                devices = one.get("dev", [])
                guarded |= {devices} if isinstance(devices, str) else {*devices}
    clients: dict[str, tuple[str, ...]] = {}
    for address, device in _links(document).items():
        clients[device] = (*clients.get(device, ()), address)
    resolvers = [
        address
        for name in ("resolvers4", "resolvers6")
        for address in sets.get(("inet", qubes_vpn_ruleset.TABLE, name), [])
    ]
    if service.role == "resolver":
        return Place(
            service.name, "as it runs", (), ("P3R",), Facts(clients=clients), document=document
        )
    _few(service.name, clients, guarded)
    facts = Facts(
        (service.interface,), service.endpoints, tuple(resolvers), clients, tuple(sorted(guarded))
    )
    stage, props = "as it runs", (*LEAKS, "P6")
    if not clients:
        stage, props = "as it runs, with no client that it names: P6 is not asked", LEAKS
    return Place(service.name, stage, (), props, facts, document=document)


def collected_upstream(
    service: Service, document: dict[str, Any], addresses: Sequence[str]
) -> Place:
    """The qube upstream of *service* with what it has loaded: P8, of that client's link.

    addresses: the client's.  Raises UserError when the qube upstream does not know one of them.
    """
    links = _links(document)
    clients: dict[str, tuple[str, ...]] = {}
    for address in addresses:
        if address not in links:
            raise UserError(
                f"{service.upstream} has no client {address}",
                f"See 'qvm-prefs {service.name} ip'; the qube has to run.",
                key="--address",
            )
        clients[links[address]] = (*clients.get(links[address], ()), address)
    facts = Facts(endpoints=service.endpoints, clients=clients)
    name, stage = service.upstream or "", f"the list of {service.name}, as it runs"
    return Place(name, stage, (), ("P8",), facts, document=document, list_of=service.name)


def _links(document: dict[str, Any]) -> dict[str, str]:
    """{address: interface} of the clients that Qubes' antispoofing knows."""
    found = {}
    for entry in document["nftables"]:
        one = entry.get("set", {})
        if (one.get("table"), one.get("name")) == ("qubes", "allowed"):
            for element in one.get("elem", []):
                device, address = element["concat"]
                found[address] = device
    return found


def _few(qube: str, *found: Collection[str]) -> None:
    """Raises UserError for more than anybody has: each is asked about."""
    if any(len(one) > _MOST for one in found):
        raise UserError(
            f"{qube} has more than {_MOST} clients or guarded devices", "Look at what it sent."
        )


def _base(known: dict[str, tuple[str, ...]] = CLIENTS) -> tuple[Part, ...]:
    """Qubes' own rules, with these clients connected."""
    linked = [(device, one) for device, addresses in known.items() for one in addresses]
    elements = "".join(
        f"add element {firewall.family_of(one)} qubes {element}\n"
        for device, one in linked
        for element in (f'allowed {{ "{device}" . {one} }}', f"downstream {{ {one} }}")
    )
    database = {"/connected-ips": "", "/connected-ips6": ""}
    for _device, one in linked:
        database[f"/qubes-firewall/{one}/0000"] = "action=accept"
        database[f"/qubes-firewall/{one}/policy"] = "drop"
        database["/connected-ips6" if ":" in one else "/connected-ips"] += f"{one} "
    lists = "".join(
        firewall.hook(one) + firewall.rules(one, database, VIRTUAL)
        for one in firewall.addresses(database)
    )
    dnat = "".join(
        f"add rule ip qubes dnat-dns ip daddr {one} {layer} dport 53 dnat to {one}\n"
        for one in VIRTUAL
        for layer in ("udp", "tcp")
    )
    chain = "{ type nat hook prerouting priority dstnat; policy accept; }"
    return (
        *(
            Part(f"Qubes: {name}", (_AGENT / name).read_text("utf-8"))
            for name in ("antispoof.nft", "base.nft")
        ),
        Part("Qubes: qubes-firewall", firewall.tables()),
        Part("Qubes: clients that are connected", elements + lists + firewall.connected(database)),
        Part("Qubes: dnat-dns", f"add chain ip qubes dnat-dns {chain}\n{dnat}"),
    )


def _read(path: str) -> str:
    return (formula_root() / path).read_text("utf-8")
