# SPDX-License-Identifier: GPL-2.0-or-later
"""The checked pillar as one typed value: what every later part starts from.

``read(document)`` is the only way from a pillar to a :class:`Model`; it fills in defaults and
topology and returns every problem it finds.  A model that comes with problems is for finding more
of them only; :func:`build` never hands one out.
"""

from typing import NamedTuple

import qubes_vpn_dnscrypt_pillar
import qubes_vpn_mullvad_pillar
import qubes_vpn_relations
import qubes_vpn_ruleset
import qubes_vpn_tests_pillar
from qubes_vpn_problem import PillarError, Problem
from qubes_vpn_schema import DEFAULT_QUBES, DEFAULT_TEMPLATES, PILLAR, TOPOLOGIES


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


class LayoutQube(NamedTuple):
    """A qube of the user's, created when it is missing (R10).  Memory in megabytes."""

    name: str
    template: str | None
    label: str
    memory: int | None
    maxmem: int | None
    disposable_template: bool


class Excepted(NamedTuple):
    """What the audit finds and the user lives with."""

    rule: str
    qube: str
    reason: str


class Model(NamedTuple):
    """A machine's network.  All names are names of qubes or templates."""

    topology: str
    uplink: str
    templates: dict  # name -> the template it is cloned from
    template_netvms: dict  # name -> its netvm while its software is installed, if any
    services: dict  # name -> Service
    default: str  # default_netvm, "none" or "keep"
    routes: dict  # client -> netvm or "none"
    outside_vpn: tuple
    vaults: tuple
    allowlists: dict  # client -> tuple of qubes_vpn_net.Destination
    disposables: str  # netvm of open disposable templates, "none" or "keep"; as the next ones
    default_dispvm: str
    updates: dict  # templates, dom0 -> who fetches their updates
    clock: str
    whonix: str
    whonix_gateway: str
    layout: dict  # name -> LayoutQube
    exceptions: tuple  # of Excepted
    restart_clients: str  # never, ask or yes
    tests: dict  # of the tests that a user runs (qubes_vpn_tests_pillar)

    def path(self, name):
        """Names from the qube or netvm *name* towards the uplink, as far as the pillar knows it."""
        names = []
        while name is not None and name not in names:
            names.append(name)
            name = self.services[name].upstream if name in self.services else None
        return names

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

    def in_clear(self, netvm):
        """Whether what goes into *netvm* reaches the uplink past every tunnel (and past Tor)."""
        path = self.path(netvm)
        return path[-1] == self.uplink and not any(
            self.services[name].role == "tunnel" for name in path if name in self.services
        )

    def upstream_first(self):
        """The services, every one after its upstream."""
        return sorted(self.services.values(), key=lambda service: len(self.path(service.name)))


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
    model, missing = _model(values)
    # What follows from a problem that is reported already is not another problem.
    found = {problem.path for problem in problems}
    for problem in (
        *doubles,
        *(missing if not doubles else ()),
        *qubes_vpn_relations.wiring(model),
        *qubes_vpn_relations.clients(model),
        *qubes_vpn_relations.ways(model),
        *qubes_vpn_tests_pillar.problems(model),
    ):
        if problem.path not in found:
            problems.append(problem)
    return model, problems


def _with_default_qubes(values):
    """*values* with the service qubes of the topology that the pillar leaves out."""
    roles = TOPOLOGIES[values["topology"]]
    filled = {}
    for role, name in DEFAULT_QUBES.items():
        if values[f"{role}s"] is None:
            fields = PILLAR.fields[f"{role}s"][0].kind
            filled[f"{role}s"] = {name: fields.read({}, (), [])} if role in roles else {}
    return {**values, **filled}


def _model(values):
    """The model, and what its topology lacks."""
    problems = []
    services, head = _services(values, problems)
    layout = {name: LayoutQube(name, **keys) for name, keys in values["layout"].items()}
    used = {service.template for service in services.values()}
    templates = {name: source for name, source in DEFAULT_TEMPLATES.items() if name in used}
    templates |= {name: keys["clone_of"] for name, keys in values["templates"].items()}
    model = Model(
        topology=values["topology"],
        uplink=values["uplink"],
        templates=templates,
        template_netvms={
            name: keys["netvm_while_installing"]
            for name, keys in values["templates"].items()
            if keys["netvm_while_installing"] != "none"
        },
        services=services,
        default=values["routes"]["default"] or head,
        routes=values["routes"]["qubes"],
        outside_vpn=values["outside_vpn"],
        vaults=values["vaults"],
        allowlists=values["allowlists"],
        disposables=values["disposables"] or values["routes"]["default"] or head,
        default_dispvm=values["default_dispvm"],
        updates=values["updates"],
        clock=values["clock"],
        whonix=values["whonix"],
        whonix_gateway=values["whonix_gateway"],
        layout=layout,
        exceptions=tuple(Excepted(**dict(each)) for each in values["audit"]["exceptions"]),
        restart_clients=values["restart_clients"],
        tests=qubes_vpn_tests_pillar.settings(values["tests"]),
    )
    return model, problems


def _services(values, problems):
    """The service qubes by name, upstreams filled in, and the one that clients go to by default."""
    roles = TOPOLOGIES[values["topology"]]
    services = {}
    for role in ("tunnel", "resolver", "firewall"):
        for name, keys in (values[f"{role}s"] or {}).items():
            if name != values["uplink"]:
                services.setdefault(name, _filled(Service(name=name, role=role, **keys)))
    chain = [values["uplink"]]
    for role in reversed(roles):
        name = _member(role, services, chain[0], values, problems)
        if name and not services[name].upstream:
            services[name] = services[name]._replace(upstream=chain[0])
        chain.insert(0, name)
    for service in services.values():
        if not service.upstream and service.name not in chain and None not in chain:
            problems.append(
                Problem(
                    ("qubes_vpn", f"{service.role}s", service.name, "upstream"),
                    f"missing, and topology '{values['topology']}' does not give one",
                    "Name the qube that is next on the way to the uplink.",
                )
            )
    return services, (chain[0] if roles else None) or "keep"


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


def _member(role, services, upstream, values, problems):
    """The qube that has *role* in the chain: the one that leaves its upstream to the topology.

    Where all of them spell it out, the one that is on *upstream*, or the only one (but none that is
    past the tunnel).
    """
    topology, uplink = values["topology"], values["uplink"]
    every = [
        service
        for service in services.values()
        if service.role == role
        and (role == "tunnel" or upstream == uplink or service.upstream != uplink)
    ]
    open_ones = [service for service in every if not service.upstream]
    fitting = [service for service in every if service.upstream == upstream]
    for candidates in (open_ones, fitting, every):
        if len(candidates) == 1:
            return candidates[0].name
        if candidates:
            break
    if every:
        what = f"topology '{topology}' has one {role}, and here are {len(candidates)}"
        fix = "Give all but one an 'upstream', or write 'topology: custom' and give it to all."
    else:
        behind = f" behind {upstream}" if upstream else ""
        what = f"topology '{topology}' needs a {role}{behind}, and there is none"
        fix = f"Add one under {role}s, or write 'topology: custom'."
    if every or role != "tunnel":  # a pillar without any tunnel has been reported already
        problems.append(Problem(("qubes_vpn", "topology"), what, fix))
    return None
