# SPDX-License-Identifier: GPL-2.0-or-later
"""What must be true between the parts of a pillar: names, wiring, clients.

Each function looks at values that are right one by one and returns the problems of how they fit.
"""

import qubes_vpn_chain
import qubes_vpn_dnscrypt_pillar
import qubes_vpn_endpoints
import qubes_vpn_layout
import qubes_vpn_mullvad_pillar
import qubes_vpn_net
import qubes_vpn_relays
from qubes_vpn_problem import Problem, suggest
from qubes_vpn_profile_data import ENDINGS
from qubes_vpn_schema import TOPOLOGIES

_TOP = "qubes_vpn"
#: Of a missing profile's name.
_EXAMPLES = {"wireguard": "wg0.conf", "openvpn": "se.ovpn"}
#: Ports that a qube keeps its clients from: questions are answered there.
_DNS = {"tunnel": (53,), "resolver": (53, 853)}
_ROLES = ("tunnels", "resolvers", "firewalls", "templates", "layout")


def names(values):
    """Two qubes of one name: the sections share one name space, as Qubes does."""
    problems = []
    owner = {values["whonix_gateway"]: "whonix_gateway", values["uplink"]: "uplink"}
    if len(owner) == 1:
        problems.append(
            Problem((_TOP, "whonix_gateway"), "it is the uplink", "Name Whonix' gateway.")
        )
    for section in _ROLES:
        for name in values[section] or ():
            if name in owner:
                problems.append(
                    Problem(
                        (_TOP, section, name),
                        f"two qubes of one name: {_TOP}.{owner[name]} has '{name}' too",
                        "Rename or remove one of them.",
                    )
                )
            else:
                owner[name] = section
    for path, name in qubes_vpn_layout.firewall_names(values):
        section, key = ".".join(path[1:3]), path[-1]
        if name in owner:
            what = f"two qubes of one name: {_TOP}.{owner[name]} has '{name}' too"
            fix = "Choose another name; to share one, name it as 'netvm'."
            problems.append(Problem(path, what, fix))
        owner.setdefault(name, f"{section}.{key}")
    for name, keys in (values["tunnels"] or {}).items():
        if keys["disposable"]:
            problems += _home((_TOP, "tunnels", name, "disposable"), f"{name}-dvm", owner)
    return problems


def _home(path, home, owner):
    """Of a disposable tunnel: the qube that it is made from."""
    if home in owner:
        what = f"it is made from '{home}', and {_TOP}.{owner[home]} has that name"
        return [Problem(path, what, "Rename one of them.")]
    if len(home) > 31:
        what = f"it is made from '{home}', and Qubes allows names of 31 characters"
        return [Problem(path, what, "Choose a name for the tunnel of 27 at most.")]
    return []


def wiring(model):
    """Templates, upstreams, loops, tunnels."""
    problems = []
    for name, source in model.templates.items():
        path = (_TOP, "templates", name, "clone_of")
        problems += _template(model, path, source)
        sources = model.sources(name)
        if model.templates.get(sources[-1]) == name == min(sources):  # each loop once
            loop = " from ".join([*sources, name])
            problems.append(Problem(path, f"a loop: {loop}", "Name a template to start from."))
    for name, netvm in model.template_netvms.items():
        problems += _netvm_while_installing(model, (_TOP, "templates", name), name, netvm)
    for name, qube in model.layout.items():
        problems += _template(model, (_TOP, "layout", name, "template"), qube.template)
        if qube.memory and qube.maxmem:
            problems += _memory((_TOP, "layout", name), qube)
        path = (_TOP, "layout", name, "default_dispvm")
        problems += _dispvm(model, path, qube.default_dispvm or "keep", name)
    for service in model.services.values():
        at = (_TOP, f"{service.role}s", service.name)
        problems += _template(model, (*at, "template"), service.template)
        problems += _memory(at, service)
        problems += _upstream(model, (*at, "upstream"), service)
        if service.role == "tunnel":
            problems += _tunnel(at, service)
            problems += _taken_for_dns(model, (*at, "endpoints"), service)
        if service.role == "resolver":
            problems += qubes_vpn_dnscrypt_pillar.problems(at, service.dnscrypt)
            problems += _forwarding(model, at, service)
    return problems


def clients(model):
    """Routes, vaults, allowlists, Whonix."""
    problems = _default(model)
    clear = {netvm: model.in_clear(netvm) for netvm in _netvms(model)}  # of many clients each
    for qube, netvm in model.routes.items():
        path = qubes_vpn_layout.place(model, "netvm", qube)
        problems += _no_client(model, path, qube) or _way(model, path, qube, netvm, clear)
    for place, qube in enumerate(model.outside_vpn):
        problems += _opt_in(model, (_TOP, "outside_vpn", place), qube)
    for place, qube in enumerate(model.vaults):
        path = (_TOP, "vaults", place)
        if qube in model.layout and "vault" in model.layout[qube].gives:
            path = (_TOP, "layout", qube, "vault")
        if qube in _netvms(model):
            problems.append(
                Problem(
                    path,
                    f"'{qube}' carries the network",
                    "A vault has no netvm; list qubes that hold data.",
                )
            )
        problems += _no_template(model, path, qube)
    for qube, entries in model.allowlists.items():
        path = qubes_vpn_layout.place(model, "allowlist", qube)
        problems += _allowlist(model, path, qube, entries)
    return [*problems, *_shared_firewalls(model), *_whonix(model)]


def _shared_firewalls(model):
    """Who hangs on a firewall qube that is for one qube of the layout alone."""
    owned = [qube.firewall for qube in model.layout.values() if qube.firewall]
    owners = {
        qube.firewall: name
        for name, qube in model.layout.items()
        if owned.count(qube.firewall) == 1 and qube.firewall not in model.chain  # told already
    }
    if not owners:
        return
    netvms = {
        qubes_vpn_layout.place(model, "netvm", name): (name, netvm)
        for name, netvm in model.routes.items()
    }
    for service in model.services.values():
        path = (_TOP, f"{service.role}s", service.name, "upstream")
        netvms[path] = (service.name, service.upstream)
    netvms[_TOP, "routes", "default"] = (None, model.default)
    netvms[_TOP, "disposables"] = (None, model.disposables)
    for path, (name, netvm) in netvms.items():
        if name != owners.get(netvm, name):
            what = f"'{netvm}' is there for {owners[netvm]} alone"
            fix = f"Name another netvm; or write {netvm} under firewalls, and as netvm of each."
            yield Problem(path, what, fix)


def ways(model):
    """Disposables, updates, the clock: none of them round the VPN; and the one way that is."""
    problems = _bypass(model) if model.bypass else []
    if model.disposables != model.default:
        problems += _closed_netvm(
            model, (_TOP, "disposables"), model.disposables, "every disposable"
        )
    problems += _dispvm(model, (_TOP, "default_dispvm"), model.default_dispvm)
    for key, name in model.updates.items():
        if name not in ("keep", "none"):
            problems += _fetcher(model, (_TOP, "updates", key), name, key)
    for place, key in enumerate(model.updates_outside):
        problems += _fetched_outside(model, (_TOP, "updates", "outside_vpn", place), key)
    if model.clock not in ("keep", "none"):
        problems += _fetcher(model, (_TOP, "clock"), model.clock)
    return problems


def _bypass(model):
    """It has a name of its own, a netvm that leads out in clear, and nothing of the user's."""
    name, netvm, template, _minutes = model.bypass
    path, problems = (_TOP, "bypass"), []
    others = {*_netvms(model), *model.homes(), *model.layout, *model.routes, *model.vaults}
    others |= {*model.allowlists, *model.outside_vpn, *model.templates, *model.templates.values()}
    if name in others:
        fix = "Choose another name: it is made for a bypass, and removed after it."
        problems.append(Problem((*path, "name"), f"'{name}' is another qube of this pillar", fix))
    if netvm not in _netvms(model):
        what = f"there is no firewall or uplink '{netvm}'"
        problems.append(Problem((*path, "netvm"), what, suggest(netvm, _netvms(model))))
    elif netvm == model.whonix_gateway:
        problems.append(_ignored((*path, "netvm"), netvm))
    elif not model.in_clear(netvm):
        way = " -> ".join(model.path(netvm))
        clear = ", ".join([*qubes_vpn_chain.clear_firewalls(model), model.uplink])
        fix = f"Name one outside the VPN: {clear}."
        problems.append(Problem((*path, "netvm"), f"{way} is not past the VPN", fix))
    if template is not None:
        problems += _bypass_template(model, (*path, "template"), template)
    return problems


def _bypass_template(model, path, name):
    """What must not be read by whoever is in that network."""
    if name in model.homes():
        what = f"'{name}' holds what the tunnel {model.homes()[name]} logs in with"
    elif name in model.vaults:
        what = f"'{name}' is a vault, and what is in it would be online"
    elif name in _netvms(model):
        what = f"'{name}' carries the network"
    elif name in model.layout and not model.layout[name].disposable_template:
        what = f"'{name}' is no template for disposables"
    else:
        return _no_template(model, path, name)
    return [Problem(path, what, "Name another template for disposables.")]


def _dispvm(model, path, name, opener=None):
    """In what links and files are opened: by *opener*, or by every qube."""
    if name in ("keep", "none"):
        return []
    if name in _netvms(model):
        what = f"'{name}' carries the network"
        return [Problem(path, what, "Name a template for disposables.")]
    if name in model.outside_vpn and opener not in model.outside_vpn:
        who = f"'{opener}'" if opener else "any qube"
        what = f"'{name}' is in outside_vpn, and {who} could open things in a disposable of it"
        fix = "Name one behind a tunnel; a qube may have its own (qvm-prefs QUBE default_dispvm)."
        return [Problem(path, what, fix)]
    if name in model.homes():
        what = f"'{name}' holds what the tunnel {model.homes()[name]} logs in with"
        return [Problem(path, what, "Name another template for disposables.")]
    if name in model.layout and not model.layout[name].disposable_template:
        what = f"'{name}' is no template for disposables"
        return [Problem(path, what, f"Write layout.{name}.disposable_template: true.")]
    return _no_template(model, path, name)


def _fetcher(model, path, name, key=None):
    """Who fetches updates or the time has a way out, and not past every tunnel.

    key: of ``updates``, which may be outside by choice.
    """
    if name in model.vaults or model.routes.get(name) == "none":
        return [Problem(path, f"'{name}' is offline", "Name a qube behind a tunnel, or 'keep'.")]
    if _fetches_in_clear(model, name) and key not in model.updates_outside:
        way = " -> ".join(model.path(name))
        what = f"{way} passes no tunnel"
        fix = "Name a qube behind a tunnel, or 'keep'."
        if key:
            fix = f"Name a qube behind a tunnel, or add '{key}' to updates.outside_vpn."
        return [Problem(path, what, fix)]
    return _no_template(model, path, name)


def _fetches_in_clear(model, name):
    return name in _netvms(model) and model.in_clear(name)


def _fetched_outside(model, path, key):
    name = model.updates[key]
    if name in ("keep", "none"):
        what = f"updates.{key} is '{name}', which names nobody outside the VPN"
        return [Problem(path, what, f"Name who fetches them, or remove '{key}' here.")]
    if not _fetches_in_clear(model, name) and name not in model.outside_vpn:
        what = f"{name} fetches them, which is not outside the VPN"
        return [Problem(path, what, f"Change updates.{key}, or remove '{key}' here.")]
    return []


def _netvms(model):
    return {*model.services, model.uplink, model.whonix_gateway}


def _template(model, path, name):
    if (
        name in model.services
        or name == model.uplink
        or name in model.layout
        or name in model.homes()
    ):
        return [Problem(path, f"'{name}' is a qube, not a template", "Name a template.")]
    return []


def _no_template(model, path, name):
    if name not in model.templates:
        return []
    what = f"'{name}' is a template, which never has a netvm"
    return [Problem(path, what, "Remove it, or name a qube.")]


def _netvm_while_installing(model, at, name, netvm):
    path = (*at, "netvm_while_installing")
    if name not in [
        model.services[each].template for each in (*model.tunnels(), *model.resolvers())
    ]:
        what = f"'{name}' is no template of a tunnel or a resolver, so nothing is installed in it"
        return [Problem(path, what, "Remove it.")]
    if netvm not in _netvms(model):
        what = f"there is no tunnel, resolver, firewall or uplink '{netvm}'"
        return [Problem(path, what, suggest(netvm, _netvms(model)))]
    if netvm == model.whonix_gateway:
        return [_ignored(path, netvm)]
    return []


def _memory(at, qube):
    if qube.maxmem >= qube.memory:
        return []
    what = f"maxmem {qube.maxmem} is less than memory {qube.memory}"
    return [Problem((*at, "maxmem"), what, f"Write {qube.memory} or more.")]


def _upstream(model, path, service):
    upstream = service.upstream
    if upstream is None:
        return []
    if upstream not in _netvms(model):
        what = f"there is no tunnel, resolver, firewall or uplink '{upstream}'"
        if upstream in model.vaults:
            what = f"'{upstream}' is a vault, which has no network"
        elif upstream in model.layout or upstream in model.routes:
            what = f"'{upstream}' provides no network"
        return [Problem(path, what, suggest(upstream, _netvms(model) - {service.name}))]
    path_up = model.path(service.name)
    last = model.services.get(path_up[-1])
    if last is not None and last.upstream == service.name == min(path_up):  # each loop once
        loop = " -> ".join([*path_up, service.name])
        return [Problem(path, f"a loop: {loop}", f"One of them must lead to {model.uplink}.")]
    if service.role == "tunnel" and upstream == model.whonix_gateway != model.uplink:
        return [_ignored(path, upstream)]
    return []


def _ignored(path, gateway):
    """Whonix' gateway does not enforce what `qvm-firewall` says of its clients."""
    what = f"'{gateway}' ignores its clients' firewall lists"
    return Problem(path, what, "Name a netvm that enforces them: nothing else would.")


def _forwarding(model, at, resolver):
    """What is forwarded is plain DNS, which only a tunnel hides."""
    if not resolver.dnscrypt["forwarding"] or not model.in_clear(resolver.name):
        return []
    what = f"it is asked in plain, and '{resolver.name}' is behind no tunnel"
    return [Problem((*at, "dnscrypt", "forwarding"), what, "Remove it.")]


def _tunnel(at, tunnel):
    problems = []
    if tunnel.kind == "mullvad" and tunnel.disposable:
        problems.append(
            Problem(
                (*at, "disposable"),
                "the Mullvad app changes its device key now and then, and a disposable forgets it",
                "Remove it, or write 'kind: wireguard' to use Mullvad's profile without the app.",
            )
        )
    if tunnel.profile in tunnel.profiles:
        what = f"'{tunnel.profile}' is the active one, and 'profile' names it already"
        fix = "List the others only."
        path = (*at, "profiles", tunnel.profiles.index(tunnel.profile))
        problems.append(Problem(path, what, fix))
    if tunnel.kind == "mullvad" and tunnel.profiles:
        problems.append(
            Problem((*at, "profiles"), "the Mullvad app reads no profile", "Remove them.")
        )
    if tunnel.kind == "mullvad" and tunnel.profile:
        problems.append(
            Problem(
                (*at, "profile"),
                "the Mullvad app reads no profile",
                "Remove it, or write 'kind: wireguard' to use Mullvad's profile without the app.",
            )
        )
    problems += _endings(at, tunnel)
    if tunnel.kind in ENDINGS and not tunnel.profile:
        problems.append(
            Problem(
                (*at, "profile"),
                "missing",
                f"Name the provider's file in {tunnel.home()}:/rw/config/vpn/credentials/, "
                f"for example 'profile: {_EXAMPLES[tunnel.kind]}'.",
            )
        )
    if tunnel.kind == "wireguard":
        problems += [
            Problem(
                (*at, "endpoints"),
                f"{endpoint.text}: WireGuard speaks udp only",
                "Write /udp, or the right kind.",
            )
            for endpoint in tunnel.endpoints or ()
            if endpoint.proto == "tcp"
        ]
    problems += qubes_vpn_relays.problems((*at, "relays"), tunnel)
    problems += qubes_vpn_mullvad_pillar.problems(at, tunnel)
    return problems + _endpoints((*at, "endpoints"), tunnel.endpoints or ())


def _taken_for_dns(model, path, tunnel):
    """What a qube on the way takes for its clients' DNS, which never gets to the server."""
    for name in model.path(tunnel.name)[1:]:
        role = model.services[name].role if name in model.services else None
        ports = _DNS.get(role, ())
        for place, endpoint in enumerate(tunnel.endpoints or ()):
            if endpoint.first == endpoint.last and endpoint.first in ports:
                what = f"{endpoint.text}: {name} takes it for DNS of a client, and keeps it"
                fix = "Name another port of the server, or another upstream."
                yield Problem((*path, place), what, fix)
        if role == "tunnel" or name == model.whonix_gateway:
            return  # what comes after it sees another packet


def _endings(at, tunnel):
    """A profile that the qube would not read, because its name is that of another kind."""
    ending = ENDINGS.get(tunnel.kind)
    named = [(("profile",), tunnel.profile)] if tunnel.profile else []
    named += [(("profiles", place), name) for place, name in enumerate(tunnel.profiles)]
    what = f"the name of a profile of kind {tunnel.kind} ends in {ending}"
    fix = "Name the provider's file for that kind, or change 'kind'."
    return [
        Problem((*at, *key), f"'{name}': {what}", fix)
        for key, name in named
        if ending and not name.lower().endswith(ending)
    ]


def _endpoints(path, endpoints):
    """What the firewall upstream or the killswitch cannot take."""
    problems = _size(path, endpoints)
    try:
        qubes_vpn_endpoints.elements(endpoints)
    except qubes_vpn_endpoints.NotEndpoints as error:
        problems += [Problem(path, *text.split(". ", 1)) for text in error.problems]
    return problems


def _size(path, destinations):
    lines = qubes_vpn_net.rules(destinations)
    size = qubes_vpn_net.rules_size(lines)
    if size <= qubes_vpn_net.FIREWALL_LIMIT:
        return []
    return [
        Problem(
            path,
            f"{len(lines):,} firewall rules take {size:,} bytes, and Qubes accepts "
            f"{qubes_vpn_net.FIREWALL_LIMIT:,}",
            "Write fewer, or collapse addresses into prefixes.",
        )
    ]


def _default(model):
    return _closed_netvm(model, (_TOP, "routes", "default"), model.default, "every new qube")


def _closed_netvm(model, path, netvm, who):
    """A netvm of more than single qubes: `none`, `keep`, or one behind a tunnel."""
    if netvm in ("keep", "none"):
        return []
    if netvm not in _netvms(model):
        what = f"there is no tunnel, resolver or firewall '{netvm}'"
        return [Problem(path, what, suggest(netvm, model.services))]
    if model.in_clear(netvm):
        way = " -> ".join(model.path(netvm))
        return [
            Problem(
                path,
                f"{way} passes no tunnel, and {who} would go there",
                "Name one behind a tunnel, or 'keep'; routes.qubes and outside_vpn lead single "
                "qubes there.",
            )
        ]
    return []


def _no_client(model, path, qube):
    if qube in model.services:
        key = f"{model.services[qube].role}s.{qube}.upstream"
        return [Problem(path, f"'{qube}' is a service qube", f"Its netvm is {key}.")]
    if qube == model.uplink:
        return [Problem(path, f"'{qube}' is the uplink", "It has no netvm; remove the route.")]
    if qube in model.homes():
        what = f"'{qube}' is what the disposable {model.homes()[qube]} is made from"
        return [Problem(path, what, "It never has a netvm; remove the route.")]
    if qube == model.whonix_gateway and model.whonix != "unmanaged":
        key = "topology" if TOPOLOGIES[model.topology].has_tor() else "whonix"
        what = f"'{key}: {getattr(model, key)}' routes {qube} already"
        return [Problem(path, what, "Remove one of the two.")]
    return _no_template(model, path, qube)


def _way(model, path, qube, netvm, clear):
    """clear: whatever carries the network -> whether that is in clear."""
    if netvm == "none":
        return []
    if qube in model.vaults:
        fix = f"Write none, or {qubes_vpn_layout.no_vault(model, qube)}."
        return [Problem(path, "a vault has no netvm", fix)]
    if qube in (netvm, model.whonix_gateway) and qube in model.path(netvm):
        return [_loop(path, [qube, *model.path(netvm)], qube)]
    if netvm not in clear:
        what = f"there is no tunnel, resolver or firewall '{netvm}'"
        if netvm in model.layout or netvm in model.vaults or netvm in model.routes:
            what = f"'{netvm}' provides no network"
        return [Problem(path, what, suggest(netvm, model.services))]
    if clear[netvm] and qube not in model.outside_vpn:
        way = " -> ".join([qube, *model.path(netvm)])
        return [
            Problem(
                path,
                f"{way} passes no tunnel",
                f"Route it to a netvm behind a tunnel, or add {qube} to outside_vpn.",
            )
        ]
    return []


def _loop(path, names, name):
    loop = " -> ".join(names[: names.index(name, 1) + 1])
    return Problem(path, f"a loop: {loop}", "Name a netvm whose way does not lead back.")


def _opt_in(model, path, qube):
    netvm = model.routes.get(qube)
    if netvm is None:
        return [Problem(path, f"'{qube}' has no route", "Add it under routes.qubes.")]
    if netvm in _netvms(model) and not model.in_clear(netvm):
        what = f"'{qube}' is routed to {netvm}, which is not outside the VPN"
        return [Problem(path, what, "Change the route, or remove it from outside_vpn.")]
    return []


def _allowlist(model, path, qube, entries):
    service = model.services.get(qube)
    if service and service.role == "tunnel":
        return [
            Problem(
                path,
                f"'{qube}' is a tunnel, and its endpoints are its allowlist",
                f"Write them under tunnels.{qube}.endpoints.",
            )
        ]
    if qube in model.vaults:
        return [Problem(path, "a vault reaches nothing", "Remove it.")]
    if qube == model.uplink:
        return [Problem(path, f"'{qube}' is the uplink, which is never changed", "Remove it.")]
    problems = _no_template(model, path, qube) + _size(path, entries)
    managed = qube == model.whonix_gateway and model.whonix != "unmanaged"
    if not service and not managed and qube not in model.routes:
        what = f"'{qube}' has no route, and it is its netvm that enforces the list"
        fix = "Add it under routes.qubes."
        if qube in model.layout:
            fix = f"Write layout.{qube}.netvm: default, or a name."
        problems.append(Problem(path, what, fix))
    if model.whonix_gateway in (service and service.upstream, model.routes.get(qube)):
        problems.append(_ignored(path, model.whonix_gateway))
    named = [entry for entry in entries if not entry.version and entry.proto]
    netvm = service.upstream if service else model.routes.get(qube)
    asks_netvm = netvm in model.resolvers()  # which answers by itself, whatever the list says
    if named and not asks_netvm and not any(entry.host == "dns" for entry in entries):
        problems.append(
            Problem(
                path,
                f"'{named[0].host}' cannot be looked up: dns is not in the list",
                "Add 'dns', or write addresses.",
            )
        )
    return problems


def _whonix(model):
    path = (_TOP, "whonix")
    if TOPOLOGIES[model.topology].has_tor():
        return []  # the topology says it
    if model.whonix == "behind_vpn" and model.default in ("keep", "none"):
        return [
            Problem(
                path,
                f"behind_vpn follows routes.default, which is '{model.default}'",
                "Name a netvm there, or write whonix: unmanaged, and route "
                f"{model.whonix_gateway} under routes.qubes.",
            )
        ]
    way = [model.whonix_gateway, *model.path(model.default)]
    if model.whonix == "behind_vpn" and model.whonix_gateway in way[1:]:
        return [_loop(path, way, model.whonix_gateway)]
    clear = qubes_vpn_chain.clear_firewalls(model)
    if model.whonix == "direct" and len(clear) != 1:
        fix = f"Add 'sys-firewall-novpn: {{upstream: {model.uplink}}}' beside the other firewalls."
        if clear:
            fix = f"Write whonix: unmanaged, and route {model.whonix_gateway} under routes.qubes."
        what = f"direct needs exactly one firewall outside the VPN, and here are {len(clear)}"
        return [Problem(path, what, fix)]
    return []
