# SPDX-License-Identifier: GPL-2.0-or-later
"""The checked pillar as one typed value: what every later part starts from.

``read(document)`` is the only way from a pillar to a :class:`Model`; it fills in defaults and
topology and returns every problem it finds.  A model that comes with problems is for finding more
of them only; :func:`build` never hands one out.
"""

from typing import NamedTuple

import qubes_vpn_chain
import qubes_vpn_dnscrypt_pillar
import qubes_vpn_layout
import qubes_vpn_mullvad_pillar
import qubes_vpn_relations
import qubes_vpn_ruleset
import qubes_vpn_tests_pillar
import qubes_vpn_tor
from qubes_vpn_problem import PillarError, Problem
from qubes_vpn_schema import DEFAULT_TEMPLATES, PILLAR, TOPOLOGIES


class Service(NamedTuple):
    """A service qube: one that carries other qubes' traffic.  Memory in megabytes."""

    name: str
    role: str  # tunnel, resolver or firewall
    upstream: str | None
    template: str | None
    label: str
    memory: int
    maxmem: int
    autostart: bool
    kind: str | None = None  # of a tunnel: wireguard, openvpn or mullvad
    profile: str | None = None  # of a tunnel: file name of the provider's profile
    profiles: tuple = ()  # of a tunnel: those of others, to switch to
    endpoints: tuple = ()  # of a tunnel: qubes_vpn_net.Destination
    relays: dict | None = None  # of a tunnel: by what its endpoints were chosen (qubes_vpn_relays)
    interface: str | None = None  # of a tunnel: the name of its network interface
    log_drops: bool = False  # of a tunnel: what its killswitch drops is logged
    disposable: bool = False  # of a tunnel: made anew from its home at each start
    mullvad: dict | None = None  # of a tunnel of this kind: the app's settings
    dnscrypt: dict | None = None  # of a resolver: dnscrypt-proxy's settings

    def home(self):
        """The qube whose /rw holds what this one is: itself, or what a disposable is made from."""
        return f"{self.name}-dvm" if self.disposable else self.name


class Bypass(NamedTuple):
    """The disposable that may go past the VPN for some minutes, when dom0's user says so."""

    name: str
    netvm: str
    template: str | None  # None: dom0's default_dispvm
    minutes: int  # at most


class Excepted(NamedTuple):
    """What the audit finds and the user lives with."""

    rule: str
    qube: str
    reason: str


class Model(NamedTuple):
    """A machine's network.  All names are names of qubes or templates."""

    topology: str
    chain: tuple  # of a ready-made topology: names from the clients' side to the uplink's
    uplink: str
    templates: dict  # name -> the template it is cloned from
    template_netvms: dict  # name -> its netvm while its software is installed, if any
    services: dict  # name -> Service
    default: str  # default_netvm, "none" or "keep"
    routes: dict  # client -> netvm or "none"
    otherwise: dict  # client -> its netvm while Whonix' gateway, its route, is not on the machine
    outside_vpn: tuple
    vaults: tuple
    bypass: Bypass | None
    allowlists: dict  # client -> tuple of qubes_vpn_net.Destination
    disposables: str  # netvm of open disposable templates, "none" or "keep"; as the next ones
    default_dispvm: str
    updates: dict  # templates, dom0 -> who fetches their updates
    updates_outside: tuple  # whose updates are fetched past every tunnel: templates, dom0
    check_days: int  # within which each is to be looked over for updates
    restart_days: int  # after which a qube that runs is to be restarted
    clock: str
    whonix: str  # where its gateway is: behind_vpn, direct or unmanaged
    whonix_gateway: str
    gateway_netvm: str | None  # of Whonix' gateway, or "none"; None: left alone
    layout: dict  # name -> qubes_vpn_layout.LayoutQube
    exceptions: tuple  # of Excepted
    restart_clients: str  # never, ask or yes
    tests: dict  # of the tests that a user runs (qubes_vpn_tests_pillar)

    def path(self, name):
        """Names from the qube or netvm *name* towards the uplink, as far as the pillar knows it."""
        names = []
        while name is not None and name not in names:
            names.append(name)
            name = self._next(name)
        return names

    def _next(self, name):
        if name in self.services:
            return self.services[name].upstream
        # An uplink has no netvm, whatever it is called.
        is_gateway = name == self.whonix_gateway != self.uplink
        return self.gateway_netvm if is_gateway and self.gateway_netvm != "none" else None

    def sources(self, template):
        """The template *template*, what it is cloned from, and so on."""
        names = []
        while template is not None and template not in names:
            names.append(template)
            template = self.templates.get(template)
        return names

    def tunnels(self):
        """Names of the tunnel qubes."""
        return [name for name, service in self.services.items() if service.role == "tunnel"]

    def resolvers(self):
        """Names of the resolver qubes."""
        return [name for name, service in self.services.items() if service.role == "resolver"]

    def homes(self):
        """What the disposable tunnels are made from, which have no netvm: ``{home: tunnel}``."""
        return {
            self.services[name].home(): name
            for name in self.tunnels()
            if self.services[name].disposable
        }

    def fetched_outside(self):
        """Who fetches updates past every tunnel, by choice: ``{"templates" or "dom0": name}``."""
        return {key: self.updates[key] for key in self.updates_outside}

    def in_clear(self, netvm):
        """Whether what goes into *netvm* reaches the uplink past every tunnel (and past Tor)."""
        path = self.path(netvm)
        return path[-1] == self.uplink and not self._shelters() & {*path}

    def _shelters(self):
        return {*self.tunnels(), self.whonix_gateway} - {self.uplink}

    def through_tor(self, name):
        """Whether what the service *name* sends goes through Tor, and in no tunnel before that."""
        shelters = self._shelters()
        first = [each for each in self.path(name)[1:] if each in shelters][:1]
        return first == [self.whonix_gateway]

    def is_behind(self, name):
        """Whether a service, or Whonix' gateway, is behind a tunnel or Tor, itself not counted."""
        upstream = self._next(name)
        return upstream is not None and not self.in_clear(upstream)

    def upstream_first(self):
        """The services, every one after its upstream."""
        return sorted(self.services.values(), key=lambda service: len(self.path(service.name)))

    def client_routes(self, there=None):
        """Every client's netvm, Whonix' gateway included unless it is left alone (R06, R08).

        there: the names of a machine's qubes: by these who is to go through Tor, if it is there.
        """
        gateway = {} if self.gateway_netvm is None else {self.whonix_gateway: self.gateway_netvm}
        missing = there is not None and self.whonix_gateway not in there
        return {**self.routes, **gateway, **(self.otherwise if missing else {})}


def build(document):
    """The :class:`Model` of *document* (the value under ``qubes_vpn``).

    Raises :class:`qubes_vpn_problem.PillarError` with every problem there is.
    """
    model, problems = read(document)
    if problems:
        raise PillarError(problems)
    return model


def read(document):
    """``(Model or None, problems)`` of *document*; see the module's text."""
    top = ("qubes_vpn",)
    if not document:
        return None, [Problem(top, "no such pillar, or an empty one", "Start from pillar.example.")]
    problems = []
    values = PILLAR.read(document, top, problems)
    if values is None:
        return None, problems
    values = _with_default_qubes(values)
    doubles = qubes_vpn_relations.names(values)
    problems += qubes_vpn_chain.twice(values)
    model, missing = _model(values)
    # What follows from a problem that is reported already is not another problem.
    problems += missing if not doubles else ()
    found = {problem.path for problem in problems}
    for problem in (
        *doubles,
        *qubes_vpn_relations.wiring(model),
        *qubes_vpn_relations.clients(model),
        *qubes_vpn_relations.ways(model),
        *qubes_vpn_chain.broken(model),
        *qubes_vpn_tor.problems(model),
        *qubes_vpn_tests_pillar.problems(model),
    ):
        if problem.path not in found:
            problems.append(problem)
    return model, problems


def _with_default_qubes(values):
    """*values* with the service qubes of the topology that the pillar leaves out."""
    topology = TOPOLOGIES[values["topology"]]
    filled = {}
    for role in ("firewall", "resolver"):
        if values[f"{role}s"] is None:
            fields = PILLAR.fields[f"{role}s"][0].kind
            names = [name for each, name in topology.chain if each == role]
            names += topology.beside if role == "firewall" else ()
            filled[f"{role}s"] = {name: fields.read({}, (), []) for name in names}
    return {**values, **filled}


def _model(values):
    """The model, and what its topology lacks."""
    problems = []
    services, chain, netvm = _services(values, problems)
    head = (chain[0] if chain else None) or "keep"
    clients, at_odds = qubes_vpn_layout.clients(values, head)
    problems += at_odds
    firewall = PILLAR.fields["firewalls"][0].kind
    for name, upstream in clients.firewalls.items():
        keys = {**firewall.read({}, (), []), "upstream": upstream}
        services.setdefault(name, Service(name=name, role="firewall", **keys))
    used = {service.template for service in services.values()}
    templates = {name: source for name, source in DEFAULT_TEMPLATES.items() if name in used}
    templates |= {name: keys["clone_of"] for name, keys in values["templates"].items()}
    model = Model(
        topology=values["topology"],
        chain=() if None in chain else tuple(chain),
        uplink=values["uplink"],
        templates=templates,
        template_netvms={
            name: keys["netvm_while_installing"]
            for name, keys in values["templates"].items()
            if keys["netvm_while_installing"] != "none"
        },
        services=services,
        default=values["routes"]["default"] or head,
        routes=clients.routes,
        otherwise=clients.otherwise,
        outside_vpn=values["outside_vpn"],
        vaults=clients.vaults,
        bypass=Bypass(**values["bypass"]) if values["bypass"] else None,
        allowlists=clients.allowlists,
        disposables=values["disposables"] or values["routes"]["default"] or head,
        default_dispvm=values["default_dispvm"],
        updates={key: values["updates"][key] for key in ("templates", "dom0")},
        updates_outside=values["updates"]["outside_vpn"],
        check_days=values["updates"]["check_days"],
        restart_days=values["updates"]["restart_days"],
        clock=values["clock"],
        whonix=values["whonix"] or "unmanaged",
        whonix_gateway=values["whonix_gateway"],
        gateway_netvm=netvm or values["routes"]["qubes"].get(values["whonix_gateway"]),
        layout=clients.qubes,
        exceptions=tuple(Excepted(**dict(each)) for each in values["audit"]["exceptions"]),
        restart_clients=values["restart_clients"],
        tests=qubes_vpn_tests_pillar.settings(values["tests"]),
    )
    model = qubes_vpn_chain.with_gateway(model)
    if model.gateway_netvm is not None:  # a run that hangs it somewhere needs it
        model = model._replace(otherwise={})
    return qubes_vpn_tor.settled(model), problems


def _services(values, problems):
    """The service qubes by name, the topology's chain, and the gateway's netvm by that."""
    services = {}
    for role in ("tunnel", "resolver", "firewall"):
        for name, keys in (values[f"{role}s"] or {}).items():
            if name != values["uplink"]:
                services.setdefault(name, _filled(Service(name=name, role=role, **keys)))
    chain, netvm = qubes_vpn_chain.place(values, services, problems)
    for service in services.values():
        if not service.upstream and service.name not in chain and None not in chain:
            problems.append(
                Problem(
                    ("qubes_vpn", f"{service.role}s", service.name, "upstream"),
                    f"missing, and topology '{values['topology']}' does not give one",
                    "Name the qube that is next on the way to the uplink.",
                )
            )
    return services, chain, netvm


def _filled(service):
    """*service* with the defaults that follow from what it is."""
    if not service.interface:
        interface = qubes_vpn_ruleset.INTERFACES.get(service.kind)
        service = service._replace(interface=interface)
    if service.kind == "mullvad":
        app = qubes_vpn_mullvad_pillar.settings(service.mullvad, service.relays)
        service = service._replace(mullvad=app)
    if service.role == "resolver":
        proxy = qubes_vpn_dnscrypt_pillar.settings(service.dnscrypt)
        service = service._replace(dnscrypt=proxy)
    return service
