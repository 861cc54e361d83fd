# SPDX-License-Identifier: GPL-2.0-or-later
"""What a minion other than dom0 has to do with the pillar: a template, a VPN qube, a resolver."""

import qubes_vpn_mullvad_pillar


def targets(model):
    """The minions with a part of their own, templates first, as ``qubesctl --targets`` wants."""
    services = [model.services[name] for name in (*model.tunnels(), *model.resolvers())]
    templates = [service.template for service in services]
    return [*dict.fromkeys(templates), *(service.home() for service in services)]


def part(model, minion):
    """``(role, {what: arguments})`` of the *minion*.

    role: ``template`` (of a tunnel, a resolver or both), ``qube`` (a tunnel or a resolver), or
    None.  For a qube, *what* are the states ``qubes_vpn.WHAT`` in the order in which they run, each
    only after the one before; for a template it is ``software``, of :func:`software`.
    A disposable tunnel has none: it is made anew at each start, from its home, which has it.
    """
    for name in model.tunnels():
        if minion == model.services[name].home():
            return "qube", _tunnel(model.services[name], minion)
    if minion in model.resolvers():
        return "qube", _resolver(model.services[minion])
    if minion in targets(model):
        return "template", {"software": software(model, minion)}
    return None, {}


def software(model, template):
    """What the *template* is for: arguments of the state ``qubes_vpn.template_ready``."""
    services = model.services
    kinds = [services[name].kind for name in model.tunnels() if services[name].template == template]
    if any(services[name].template == template for name in model.resolvers()):
        kinds.append("dnscrypt")
    return {
        "name": template,
        "kinds": list(dict.fromkeys(kinds)),
        "minimal": any(name.endswith("-minimal") for name in model.sources(template)),
    }


def _tunnel(tunnel, minion):
    endpoints = [found.text for found in tunnel.endpoints]
    states = {
        "killswitch": {
            "name": minion,
            "endpoints": endpoints,
            "interface": tunnel.interface,
            "log_drops": tunnel.log_drops,
        },
    }
    if tunnel.kind == "mullvad":
        states["mullvad"] = {
            "name": minion,
            "settings": tunnel.mullvad,
            "api": any(map(qubes_vpn_mullvad_pillar.reaches_api, tunnel.endpoints)),
        }
    else:
        states["tunnel"] = {
            "name": minion,
            "kind": tunnel.kind,
            "interface": tunnel.interface,
            "profile": tunnel.profile,
            "profiles": list(tunnel.profiles),
            "endpoints": endpoints,
            "disposable": tunnel.name if tunnel.disposable else None,
        }
    states["dnat_dns"] = {
        "name": minion,
        "to": "tunnel",
        "disposable": tunnel.name if tunnel.disposable else None,
    }
    return states


def _resolver(resolver):
    return {
        "dnat_dns": {"name": resolver.name, "to": "resolver"},
        "dnscrypt": {"name": resolver.name, "settings": resolver.dnscrypt},
    }
