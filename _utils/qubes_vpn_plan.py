# SPDX-License-Identifier: GPL-2.0-or-later
"""The model as ordered steps: what dom0 does, in which order, and why there.

A step is plain data and becomes one Salt state: ``id``, ``state`` (a function of
``_states/qubes_vpn.py``), ``args`` (its arguments) and ``why``.  The order opens nothing on the
way: a service qube is made without a netvm, gets its firewall list, then its services, provides
network, and only then hangs on its upstream; upstream qubes come before downstream ones, vaults
before clients, clients one by one, then dom0's default, and what belongs to the whole machine last.
"""

from typing import NamedTuple

import qubes_vpn_layout
import qubes_vpn_net

#: Service flags by which the files of a template know what a qube is: a VPN qube, a resolver.
FLAG, RESOLVER_FLAG = "qubes-vpn", "qubes-vpn-dns"


class Step(NamedTuple):
    """One step.  *state* names the function, *args* its keyword arguments (*name* included)."""

    id: str
    state: str
    args: dict
    why: str


def plan(model):
    """The steps of ``qubes.network.sys-vpn`` in dom0, as a list of :class:`Step`."""
    promise, routes = guard(model), model.client_routes()
    steps = [*_bypass_closed(model), *_templates_offline(model), _names(model, routes)]
    steps += [
        _template(name, model.templates[name], promise)
        for name in sorted(model.templates, key=lambda name: len(model.sources(name)))
    ]
    steps += _carriers(model, routes, promise)
    steps += [_vault(model, name, promise) for name in model.vaults]
    for name, netvm in routes.items():
        if name not in (*model.vaults, model.whonix_gateway):
            steps += _client(model, name, netvm, promise)
    if model.default != "keep":
        steps.append(
            Step(
                f"default_netvm: {model.default}",
                "default_netvm",
                {"name": model.default, "guard": promise},
                "after the clients: it moves every qube that has no netvm of its own choice",
            )
        )
    args = {"name": "left half made", "known": _named(model)}
    why = "what an interrupted run left, and the pillar does not name any more, is told"
    steps.append(Step("left half made", "leftovers", args, why))
    steps.append(_stranded(model, routes))
    steps += _ways(model, promise)
    return _with_later(_with_restarts(steps, model), model)


def _carriers(model, routes, promise):
    """The service qubes, and Whonix' gateway before what is downstream of it, or after them."""
    gateway = model.whonix_gateway
    netvm = routes.get(gateway)
    pending = _client(model, gateway, netvm, promise) if netvm else []
    steps = []
    for service in model.upstream_first():
        if gateway in model.path(service.name):
            steps, pending = steps + pending, []
        steps += _service(model, service, promise)
    return steps + pending


def _stranded(model, routes):
    """Whom the pillar does not bring back, and an interrupted run has left without a netvm."""
    args = {
        "name": "left offline",
        "routed": [*model.services, *model.homes(), *routes, *model.vaults],
        "default": model.default,
        "disposables": model.disposables,
    }
    why = "whom an interrupted run left offline or off, and nothing brings back, is told"
    return Step("left offline", "stranded", args, why)


def layout(model):
    """The steps of ``qubes.layout`` in dom0: the user's own qubes, created when missing (R10)."""
    promise = guard(model)
    steps = [*_bypass_closed(model), *_templates_offline(model)]
    if model.layout:
        steps.append(_names_of_layout(model))
    # What others open things in comes before them.
    for name, qube in sorted(
        model.layout.items(), key=lambda each: not each[1].disposable_template
    ):
        steps.append(_of_layout(name, qube))
        if name in model.vaults:
            steps.append(_vault(model, name, promise))
        elif name in model.routes:
            steps += _client(model, name, model.routes[name], promise)
    if model.default_dispvm in model.layout:
        why = "after it is made: links and files of every qube are opened in one"
        steps += _default_dispvm(model, promise, why)
    for step in steps:
        if step.state == "netvm" and step.args["netvm"] != "none":
            step.args["later"] = {"lists": _lists(model)}
    return _with_restarts(steps, model)


def _of_layout(name, qube):
    settings = {"memory": qube.memory, "maxmem": qube.maxmem}
    if qube.disposable_template:
        settings["template_for_dispvms"] = True
    if qube.default_dispvm not in (None, "none"):
        settings["default_dispvm"] = qube.default_dispvm
    step = _present(name, qube.template, qube.label, settings)
    if qube.default_dispvm == "none":
        step.args["settings"] = {**step.args.get("settings", {}), "default_dispvm": None}
    step.args["adopted"] = True
    return step


def _names(model, routes):
    """Looks at the qubes that the pillar names, before the first of them is written to."""
    qubes = dict.fromkeys([*model.templates, *model.templates.values()], "template")
    qubes[model.uplink] = "uplink"
    netvms = {service.upstream for service in model.services.values()}
    routed = (netvm for name, netvm in routes.items() if name not in model.otherwise)
    netvms |= {model.default, model.disposables, *routed}
    outside = sorted({model.uplink, model.whonix_gateway} & netvms)
    for name in outside:
        qubes.setdefault(name, "netvm")
    if model.whonix != "unmanaged":
        qubes[model.whonix_gateway] = "gateway"
    for name in (*model.vaults, *routes):
        qubes.setdefault(name, "new client" if name in model.layout else "client")
    templates = {}
    for service in model.upstream_first():
        qubes[service.name] = "disposable" if service.disposable else service.role
        if service.disposable:
            qubes[service.home()] = "home"
            templates |= {service.home(): service.template, service.name: service.home()}
        elif service.template:
            templates[service.name] = service.template
    for name in (*model.updates.values(), model.clock):
        if name not in ("keep", "none") and name not in model.layout:
            qubes.setdefault(name, "server")
    outside = _with_optional(model, qubes, outside, model.otherwise)
    return _named_first(qubes, templates, outside, _dispvms(model))


def _names_of_layout(model):
    """The same of `qubes.layout`, for which the service qubes and templates have to be there."""
    qubes = dict.fromkeys(model.layout, "new client")
    routes = {name: model.routes[name] for name in model.layout if name in model.routes}
    netvms = {netvm for name, netvm in routes.items() if name not in model.otherwise}
    netvms |= {model.otherwise[name] for name in model.layout if name in model.otherwise}
    outside = sorted(netvms - {"none", *model.services})
    qubes |= dict.fromkeys(sorted(netvms & {*model.services}), "service made before")
    qubes |= dict.fromkeys(outside, "netvm")
    outside = _with_optional(model, qubes, outside, {*model.layout} & {*model.otherwise})
    templates = {name: each.template for name, each in model.layout.items() if each.template}
    made = {*templates.values()} & {*model.templates}
    qubes |= dict.fromkeys(sorted(made), "template made before")
    dispvms = {name: each.default_dispvm for name, each in model.layout.items()}
    dispvms = {name: dispvm for name, dispvm in dispvms.items() if dispvm not in (None, "none")}
    if model.default_dispvm in model.layout:
        dispvms |= _dispvms(model)
    return _named_first(qubes, templates, outside, dispvms)


def _with_optional(model, qubes, netvms, clients):
    """*netvms*, and those that *clients* hang on only where there are such; all in *qubes* too."""
    optional = sorted({model.routes[name] for name in clients} - {*netvms})
    for name in optional:
        qubes.setdefault(name, "optional netvm")
    return [*netvms, *optional]


def _dispvms(model):
    return {} if model.default_dispvm in ("keep", "none") else {"dom0": model.default_dispvm}


def _named_first(qubes, templates, netvms, dispvms):
    step = "the qubes that the pillar names"
    args = {"name": step, "qubes": qubes, "templates": templates, "netvms": netvms}
    args["dispvms"] = dispvms
    why = "what cannot be as the pillar says is refused before anything is written"
    return Step(step, "named", args, why)


def _named(model):
    """Whatever a step of ours may make."""
    templates = {*model.templates, *model.templates.values()}
    return sorted({*templates, *model.services, *model.homes(), *model.layout})


def templates(model):
    """The steps of ``qubes.network.template-netvm`` in dom0: templates' software, by a netvm."""
    steps = [*_bypass_closed(model), *_templates_offline(model)]
    for name, netvm in model.template_netvms.items():
        args = {"name": name, "netvm": netvm, "in_clear": model.in_clear(netvm)}
        way = " -> ".join(model.path(netvm))
        why = f"without a netvm first; if that fails, by {way}, for as long as it takes"
        args |= {"guard": guard(model), "lists": _lists(model)}
        steps.append(Step(f"{name}: its software", "template_software", args, why))
    return steps


def _lists(model):
    """Every tunnel's firewall list, for steps that do not set it and rely on it."""
    services = model.services.items()
    return {
        name: qubes_vpn_net.rules(service.endpoints)
        for name, service in services
        if service.role == "tunnel"
    }


def _bypass_closed(model):
    why = "who is let past the VPN by hand is let out no longer than until the next run"
    return [Step("bypass: closed", "bypass_closed", {"name": "bypass"}, why)] * bool(model.bypass)


def _templates_offline(model):
    why = "what an interrupted qubes.network.template-netvm left comes off before anything else"
    return [
        Step(f"{name}: no netvm", "template_offline", {"name": name}, why)
        for name in model.template_netvms
    ]


def _with_restarts(steps, model):
    """What every move of netvms does about running clients."""
    if model.restart_clients != "never":
        for step in steps:
            if step.state in ("netvm", "default_netvm", "management", "disposables"):
                step.args["restart_clients"] = model.restart_clients
    return steps


def _with_later(steps, model):
    """Whom a move of who carries others, or may, may take offline first, and which lists follow.

    On a machine that is wired already, the order of the steps alone would open some of them.
    """
    carriers = {*model.services, model.whonix_gateway}
    later, lists, routes, otherwise = {"qubes": [], "default": None}, {}, {}, {}
    for step in reversed(steps):
        if step.state == "netvm":
            name, netvm = step.args["name"], step.args["netvm"]
            if name in carriers:
                more = {"lists": dict(lists)} if lists else {}
                more |= {"routes": dict(routes)} if routes else {}
                more |= {"otherwise": dict(otherwise)} if otherwise else {}
                step.args["later"] = {**later, "qubes": later["qubes"][::-1], **more}
            elif netvm != "none":
                routes[name] = netvm
                if "otherwise" in step.args:
                    otherwise[name] = step.args["otherwise"]
                if later["default"]:  # it may be default_netvm until then, and carry heirs
                    step.args["later"] = {"qubes": [], "default": later["default"]}
            later["qubes"].append(name)
        if step.state == "firewall" and step.args["name"] in model.tunnels():
            lists[step.args["name"]] = step.args["rules"]
        if step.state == "default_netvm":
            later["default"] = step.args["name"]
    return steps


def guard(model):
    """What :class:`qubes_vpn_guard.Guard` needs to know, as plain data for a state."""
    clear = [model.whonix_gateway] if model.whonix == "direct" else []
    carriers = (*model.services, model.whonix_gateway)
    return {
        "uplink": model.uplink,
        "shelters": [*model.tunnels(), model.whonix_gateway],
        "services": list(model.services),
        "outside_vpn": [*model.outside_vpn, *clear],
        "sheltered": [name for name in carriers if model.is_behind(name)],
        "upstreams": _upstreams(model),
    }


def _upstreams(model):
    """What each service hangs on, and Whonix' gateway where the pillar says so."""
    found = {service.name: service.upstream for service in model.upstream_first()}
    if model.gateway_netvm not in (None, "none"):
        found[model.whonix_gateway] = model.gateway_netvm
    return found


def _ways(model, guard):
    """The ways round a VPN that belong to the whole machine (R07)."""
    routes = model.client_routes().items()
    routed = {name: netvm for name, netvm in routes if name not in model.vaults}
    online = [name for name, netvm in routed.items() if netvm != "none"]
    args = {"name": "management disposables", "routed": online, "guard": guard}
    why = "dom0 manages qubes with them, and they get the whole pillar"
    steps = [Step("management disposables: offline", "management", args, why)]
    if model.disposables != "keep":
        args = {"name": model.disposables, "routed": [*routed, *model.vaults], "guard": guard}
        why = "a disposable has the netvm of what it is made from; what is offline stays so"
        steps.append(Step(f"disposables -> {model.disposables}", "disposables", args, why))
    why = "after the disposables' netvms: links and files of every qube are opened in one"
    steps += _default_dispvm(model, guard, why)
    templates = model.updates["templates"]
    if templates != "keep":
        args = {"name": templates, "whonix_gateway": model.whonix_gateway, "guard": guard}
        args |= _outside(model, "templates")
        why = "templates have no netvm: qrexec policy says who fetches for them"
        steps.append(Step(f"templates' updates by {templates}", "updates_policy", args, why))
    if templates not in ("keep", "none", model.uplink):  # an uplink has one, and is never changed
        args = {"name": templates, "features": {"service.qubes-updates-proxy": "1"}}
        why = "what templates ask for comes to its updates proxy"
        steps.append(Step(f"{templates}: runs the updates proxy", "qube", args, why))
    why = "dom0 has no network: this qube fetches for it"
    dom0 = _served_by("updatevm", model.updates["dom0"], guard, why)
    for step in dom0:
        step.args.update(_outside(model, "dom0"))
    steps += dom0
    steps += _served_by("clockvm", model.clock, guard, "it asks the internet for the time")
    roles = {name: service.role for name, service in model.services.items()}
    args = {"name": "ways round the VPN", "guard": guard, "roles": roles}
    if model.updates_outside:
        args["outside"] = model.fetched_outside()
    why = "looks at the machine as it is, and says what still goes past the VPN"
    return [*steps, Step("ways round the VPN", "ways_round", args, why)]


def _outside(model, key):
    """Of whose updates are fetched past every tunnel, by choice (R05)."""
    return {"outside": True} if key in model.updates_outside else {}


def _default_dispvm(model, guard, why):
    steps = _served_by("default_dispvm", model.default_dispvm, guard, why)
    for step in steps:
        step.args.update(_optional(model, model.default_dispvm))
    return steps


def _served_by(key, name, guard, why):
    if name == "keep":
        return []
    return [Step(f"{key}: {name}", "served_by", {"name": key, "qube": name, "guard": guard}, why)]


def _template(name, source, guard):
    return Step(
        f"{name}: cloned from {source}",
        "template",
        {"name": name, "clone_of": source, "guard": guard},
        "one template for one purpose; the source is installed if need be, and stays as it is",
    )


def _service(model, service, guard):
    name = service.name
    adopted = service.role == "firewall"
    settings = {
        "memory": service.memory,
        "maxmem": service.maxmem,
        "autostart": service.autostart,
    }
    if service.disposable:
        steps = [*_home(service, guard), _disposable(service)]
    else:
        steps = [_present(name, service.template, service.label, settings if adopted else {})]
    if service.role == "tunnel":
        steps.append(
            Step(
                f"{name}: may reach its endpoints only",
                "firewall",
                {
                    "name": name,
                    "rules": qubes_vpn_net.rules(service.endpoints),
                    "enforced_by": service.upstream,
                },
                f"{service.upstream} drops whatever else {name} sends, and it does so before "
                f"{name} carries anything (R12, R42)",
            )
        )
    if name in model.allowlists:
        steps.append(_allowlist(model, name, service.upstream))
    if not adopted:
        template = service.home() if service.disposable else service.template
        args = {"name": name, "settings": {"template": template, "label": service.label}}
        args["settings"] |= settings
        if service.disposable:
            args["klass"] = "DispVM"
        args["features"] = _features(service)
        steps.append(
            Step(
                f"{name}: settings",
                "qube",
                args,
                f"a {service.role} qube as the pillar describes it (R01)",
            )
        )
    steps.append(
        Step(
            f"{name}: provides network",
            "qube",
            {"name": name, "settings": {"provides_network": True}},
            "only now, when its rules are in place",
        )
    )
    why = f"{service.upstream} is ready: upstream qubes come first"
    return [*steps, _netvm(name, service.upstream, guard, why)]


def _home(service, guard):
    """Of a disposable tunnel: what it is made from, which is never connected (R85)."""
    home = service.home()
    rules = qubes_vpn_net.rules(service.endpoints)
    settings = {
        "template": service.template,
        "label": service.label,
        "memory": service.memory,
        "maxmem": service.maxmem,
        "template_for_dispvms": True,
    }
    # Without network-manager: nothing looks for a tunnel in it.
    features = {f"service.{FLAG}": "1"}
    args = {"name": home, "settings": settings, "features": features}
    why = "whatever is made from it has its list from the first moment on"
    return [
        _present(home, service.template, service.label, {}),
        _netvm(home, "none", guard, "it holds the credentials, and disposables are as it is"),
        Step(f"{home}: lists the endpoints only", "firewall", {"name": home, "rules": rules}, why),
        Step(f"{home}: settings", "qube", args, f"{service.name} is made from it at each start"),
    ]


def _disposable(service):
    args = {"name": service.name, "template": service.home(), "label": service.label}
    why = "offline, as what it is made from; one that exists stays as it is"
    return Step(f"{service.name}: present", "disposable", args, why)


def _features(service):
    """The services that are switched on in a tunnel or resolver."""
    if service.role == "resolver":
        services = [RESOLVER_FLAG]
    else:
        services = [FLAG] if service.kind == "mullvad" else [FLAG, "network-manager"]
    return {f"service.{name}": "1" for name in services}


def _present(name, template, label, settings):
    args = {"name": name, "label": label}
    if template:
        args["template"] = template
    settings = {key: value for key, value in settings.items() if value is not None}
    if settings:
        args["settings"] = settings
    return Step(
        f"{name}: present",
        "present",
        args,
        "made without a netvm; a qube that exists stays as it is",
    )


def _netvm(name, netvm, guard, why, **more):
    args = {"name": name, "netvm": netvm, **more, "guard": guard}
    return Step(f"{name} -> {netvm}", "netvm", args, why)


def _optional(model, name):
    """A qube of the layout need not be there before `qubes.layout` has made it."""
    return {"optional": True} if name in model.layout else {}


def _vault(model, name, guard):
    why = "a vault has no netvm (R09)"
    return _netvm(name, "none", guard, why, **_optional(model, name))


def _client(model, name, netvm, guard):
    steps = [_allowlist(model, name, netvm)] if name in model.allowlists else []
    more = _optional(model, name)
    if netvm == "none":
        why = "offline, as routed"
        if qubes_vpn_layout.waits(model, name):
            why = f"offline until layout.{name}.allowlist says what it may reach (R11)"
            more["waits"] = True
    elif name == model.whonix_gateway and model.whonix == "direct":
        why = "Tor by itself: no VPN sees it, and the line does (R08)"
    elif name in model.outside_vpn:
        why = f"outside the VPN by choice: outside_vpn names {name} (R05)"
    else:
        why = " -> ".join([name, *model.path(netvm)])
    if name in model.otherwise:
        more = {**more, "otherwise": model.otherwise[name]}
        instead = " -> ".join([name, *model.path(model.otherwise[name])])
        why = f"{why}; while there is no {netvm}: {instead}"
    return [*steps, _netvm(name, netvm, guard, why, **more)]


def _allowlist(model, name, netvm):
    rules = qubes_vpn_net.rules(model.allowlists[name])
    enforced_by = {} if netvm == "none" else {"enforced_by": netvm}
    return Step(
        f"{name}: may reach its allowlist only",
        "firewall",
        {"name": name, "rules": rules, **enforced_by, **_optional(model, name)},
        "set before its netvm (R11)",
    )
