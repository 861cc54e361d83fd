# SPDX-License-Identifier: GPL-2.0-or-later
"""What a minion other than dom0 has to do with the pillar: a tunnel's template, a VPN qube."""

import qubes_vpn_mullvad_pillar


def targets(model):
    """The minions with a part of their own, templates first, as ``qubesctl --targets`` wants."""
    templates = [model.services[name].template for name in model.tunnels()]
    return [*dict.fromkeys(templates), *(model.services[name].home() for name in model.tunnels())]


def part(model, minion):
    """``(role, {what: arguments})`` of the *minion*.

    role: ``template`` (of a tunnel), ``qube`` (a tunnel), or None.  For a qube, *what* are the
    states ``qubes_vpn.WHAT`` in the order in which they run, each only after the one before; for
    a template it is ``software``, of :func:`software`.
    A disposable tunnel has none: it is made anew at each start, from its home, which has it.
    """
    for name in model.tunnels():
        if minion == model.services[name].home():
            return "qube", _qube(model.services[name], minion)
    if minion in targets(model):
        return "template", {"software": software(model, minion)}
    return None, {}


def software(model, template):
    """What the *template* is for: arguments of the state ``qubes_vpn.template_ready``."""
    tunnels = [model.services[name] for name in model.tunnels()]
    kinds = [tunnel.kind for tunnel in tunnels if tunnel.template == template]
    return {
        "name": template,
        "kinds": list(dict.fromkeys(kinds)),
        "minimal": any(name.endswith("-minimal") for name in model.sources(template)),
    }


def _qube(tunnel, minion):
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
    return states
