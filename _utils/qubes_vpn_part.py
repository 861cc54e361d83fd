# SPDX-License-Identifier: GPL-2.0-or-later
"""What a minion other than dom0 has to do with the pillar: a tunnel's template, a VPN qube."""


def targets(model):
    """The minions with a part of their own, templates first, as ``qubesctl --targets`` wants."""
    templates = [model.services[name].template for name in model.tunnels()]
    return [*dict.fromkeys(templates), *model.tunnels()]


def part(model, minion):
    """``(role, arguments)`` of the *minion*.

    role: ``template`` (of a tunnel), ``qube`` (a tunnel), or None; arguments: those of the state
    ``qubes_vpn.killswitch``, for a qube.
    """
    if minion in model.tunnels():
        tunnel = model.services[minion]
        return "qube", {
            "name": minion,
            "endpoints": [found.text for found in tunnel.endpoints],
            "interface": tunnel.interface,
            "log_drops": tunnel.log_drops,
        }
    return ("template" if minion in targets(model) else None), {}
