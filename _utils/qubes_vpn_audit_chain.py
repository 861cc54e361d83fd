# SPDX-License-Identifier: GPL-2.0-or-later
"""Audit rules about the pillar's topology: whether the machine is wired so, and who is past it."""

import qubes_vpn_observers
from qubes_vpn_finding import Rule, some
from qubes_vpn_network import FIREWALL, RESOLVER, TOR, TUNNEL, UPLINK


def _wired(flow):
    view = flow.view
    wanted = {service.name: service.upstream for service in view.services()}
    if view.model and view.model.gateway_netvm not in (None, "none"):
        wanted[view.model.whonix_gateway] = view.model.gateway_netvm
    for name, netvm in sorted(wanted.items()):
        if name in view.qubes and view.wiring[name] != netvm:
            yield name, f"its netvm is {view.wiring[name] or 'none'}; the pillar says {netvm}"


def _past(flow):
    """Whose way passes by what is to be on it, and who outside sees more by that."""
    view = flow.view
    routes = view.model.client_routes(view.qubes) if view.model else {}
    for name, netvm in sorted(routes.items()):
        way = view.way(name) if name in view.qubes else []
        if not way or netvm == "none" or name == view.model.whonix_gateway:
            continue
        planned = [each for each in view.model.path(netvm) if each in view.qubes]
        kept = [each for each in way if each in planned]
        if missing := [each for each in planned if each not in way]:
            how = f"past {some(missing)}"
        elif kept != planned:
            how = "in another order than the pillar's"
        else:
            continue
        yield name, "; ".join([f"{' -> '.join(way)}, {how}", *_more(view, way, planned)])


def _more(view, way, planned):
    """What somebody sees of *way*, and would not of the *planned* one."""
    of_plan, of_way = (
        qubes_vpn_observers.along(
            [qubes_vpn_observers.Hop(each, _role(view, each)) for each in names]
        )
        for names in (planned, way)
    )
    was = {(each.kind, each.hop): each.sees for each in of_plan}
    for each in of_way:
        facts = qubes_vpn_observers.FACTS.items()
        new = each.sees - was.get((each.kind, each.hop), frozenset())
        if new:
            words = [told for fact, told in facts if fact in new]
            yield f"{each.who()}: {', '.join(words)}"


def _left_over(flow):
    view = flow.view
    for name in view.left_over():
        what = ["it is there, and nobody hangs on it"]
        what += ["it starts with the machine"] * bool(view.value(name, "autostart"))
        what += ["it runs"] * view.runs(name)
        yield name, "; ".join(what)


def _role(view, name):
    if view.is_end(name):
        return UPLINK
    roles = {TUNNEL: view.tunnels, TOR: view.gateways, RESOLVER: view.resolvers}
    return next((role for role, names in roles.items() if name in names), FIREWALL)


RULES = (
    Rule(
        "A601",
        "high",
        "A service qube hangs on another one than the topology says",
        "What goes through it takes another way, and somebody else sees it.",
        "Run qubes.network.sys-vpn, or change the pillar (topology, upstream).",
        _wired,
    ),
    Rule(
        "A602",
        "high",
        "A qube goes past a part of its way",
        "It may still be in a tunnel; but whoever the pillar keeps from seeing something sees it.",
        "Run qubes.network.sys-vpn, or change routes.qubes in the pillar.",
        _past,
    ),
    Rule(
        "A603",
        "low",
        "A VPN or resolver qube is left over from an earlier pillar",
        "It may hold a login, and logs in whenever it is started, for nobody.",
        "If you do not need it: qvm-shutdown --wait QUBE; qvm-remove QUBE. Or name it in the "
        "pillar.",
        _left_over,
    ),
)
