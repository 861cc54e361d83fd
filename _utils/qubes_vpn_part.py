# SPDX-License-Identifier: GPL-2.0-or-later
"""What a minion other than dom0 has to do with the pillar: a tunnel's template, a VPN qube."""


def targets(model):
    """The minions with a part of their own, templates first, as ``qubesctl --targets`` wants."""
    templates = [model.services[name].template for name in model.tunnels()]
    return [*dict.fromkeys(templates), *model.tunnels()]


def part(model, minion):
    """``(role, {what: arguments})`` of the *minion*.

    role: ``template`` (of a tunnel), ``qube`` (a tunnel), or None.  For a qube, *what* are the
    states ``qubes_vpn.WHAT`` in the order in which they run, each only after the one before.
    """
    if minion in model.tunnels():
        return "qube", _qube(model.services[minion])
    return ("template" if minion in targets(model) else None), {}


def _qube(tunnel):
    endpoints = [found.text for found in tunnel.endpoints]
    return {
        "killswitch": {
            "name": tunnel.name,
            "endpoints": endpoints,
            "interface": tunnel.interface,
            "log_drops": tunnel.log_drops,
        },
    }
