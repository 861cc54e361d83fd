# SPDX-License-Identifier: GPL-2.0-or-later
"""Audit rules about what belongs to the whole machine: updates, the time, Whonix, management."""

import qubes_vpn_inventory
import qubes_vpn_policy
from qubes_vpn_audit_view import WORKSTATION
from qubes_vpn_finding import Rule, some

_PROXY = "supported-service.qubes-updates-proxy"
_CLOCK = "service.clocksync"


def _updates(flow):
    chosen = _outside(flow).get("templates")
    yield from (each for each in _for_templates(flow) if each[0] != chosen)


def _for_templates(flow):
    served = _by_server(flow, flow.view.of_class("TemplateVM"))
    for server, names in served.items():
        yield server, f"it fetches for {some(names)}"


def _for_dom0(flow):
    return _named(flow, "updatevm", "it fetches dom0's updates")


def _outside(flow):
    """Who is to fetch what past the VPN, by the pillar."""
    return flow.view.model.fetched_outside() if flow.view.model else {}


def _chosen(flow):
    chosen = _outside(flow)
    yield from (each for each in _for_templates(flow) if each[0] == chosen.get("templates"))
    yield from (each for each in _for_dom0(flow) if each[0] == chosen.get("dom0"))


def _proxy_for_others(flow):
    """Who is no template, and may use the updates proxy to get out."""
    view = flow.view
    closed = [
        name
        for name in sorted(view.qubes)
        if view.klass(name) not in ("AdminVM", "TemplateVM") and not flow.own(name)
    ]
    for server, names in _by_server(flow, closed).items():
        others = [name for name in names if not view.is_end(name) and name != server]
        if others:
            yield server, f"open to {some(others)}"


def _by_server(flow, names):
    served = {}
    for name in names:
        for server in flow.fetchers(name):
            served.setdefault(server, []).append(name)
    return dict(sorted(served.items()))


def _no_server(flow):
    """Templates whose updates nobody can fetch."""
    view, missing = flow.view, {}
    for name in view.of_class("TemplateVM"):
        rules, tags = view.policy, view.qubes[name]["tags"]
        server = qubes_vpn_policy.answer(rules, name, "TemplateVM", tags).qube
        if server and (why := _cannot(view, server)):
            missing.setdefault((server, why), []).append(name)
    for (server, why), names in sorted(missing.items()):
        yield server, f"{why}, and {some(names)} are to be updated by it"


def _cannot(view, server):
    if server.startswith("@"):
        return None
    if server not in view.qubes:
        return "there is no such qube"
    if not view.way(server) and not view.is_end(server):
        return "it is offline"
    return None if view.announces(server, _PROXY) else "its template has no updates proxy"


def _updatevm(flow):
    chosen = _outside(flow).get("dom0")
    yield from (each for each in _for_dom0(flow) if each[0] != chosen)


def _clockvm(flow):
    yield from _named(flow, "clockvm", "it asks for the time")


def _named(flow, key, what):
    name = flow.view.named[key]
    if name and flow.own(name):
        yield name, what


def _other_clocks(flow):
    for name in sorted(flow.view.qubes):
        if flow.view.feature(name, _CLOCK) and name != flow.view.named["clockvm"]:
            yield name, f"{_CLOCK} is on, and the clock qube is another one"


def _order(flow):
    view = flow.view
    if view.model and view.model.whonix != "unmanaged":
        for name in sorted({view.model.whonix_gateway} & view.qubes.keys()):
            behind = _is_behind(view, name)
            if view.wiring[name] and behind != (view.model.whonix == "behind_vpn"):
                where = "behind a VPN qube" if behind else "past every VPN qube"
                wanted = "past" if behind else "behind"
                yield name, f"it is {where}; by the pillar it is {wanted} them"


def _order_is(flow):
    """Told where no pillar says which it is to be."""
    view = flow.view
    chosen = view.model and view.model.whonix != "unmanaged"
    for name in () if chosen else sorted(view.gateways):
        if view.wiring[name]:
            who = "the VPN provider" if _is_behind(view, name) else "the provider of the line"
            way, behind = " -> ".join([name, *view.way(name)]), view.behind(name)
            them = f"behind it: {some(behind)}" if behind else "nobody is behind it"
            yield name, f"{who} sees that Tor is used: {way}; {them}"


def _is_behind(view, name):
    return any(each in view.tunnels for each in view.way(name))


def _workstation(flow):
    view = flow.view
    for name in sorted(view.qubes):
        netvm = view.wiring[name]
        if WORKSTATION in view.qubes[name]["tags"] and netvm and netvm not in view.gateways:
            yield name, f"its netvm is {netvm}"


def _whonix_templates(flow):
    view = flow.view
    for name in view.of_class("TemplateVM"):
        tags = view.qubes[name]["tags"]
        if qubes_vpn_policy.WHONIX in tags:
            server = qubes_vpn_policy.answer(view.policy, name, "TemplateVM", tags).qube
            if server and server not in view.gateways:
                yield name, f"{server} fetches for it"


def _management(flow):
    view = flow.view
    used = {view.value(name, "management_dispvm") for name in view.qubes}
    for name in sorted((used | {view.named["management_dispvm"]}) & view.qubes.keys()):
        if view.wiring[name]:
            yield name, f"its netvm is {view.wiring[name]}"


def _bypass(flow):
    for name, until in qubes_vpn_inventory.bypasses(flow.view.inventory).items():
        power = flow.view.qubes[name]["power"].lower()
        yield name, f"it is {power}, and may go past the VPN {until}"


def _callable(flow):
    view = flow.view
    view.need("policy of services")
    for name in sorted((view.tunnels | view.resolvers) & view.qubes.keys()):
        for rule in view.let_in(name):
            yield name, rule


RULES = (
    Rule(
        "A301",
        "high",
        "Templates' updates are fetched in clear",
        "Templates have no netvm: an updates proxy fetches for them, and this one is past the VPN.",
        "Set updates.templates in the pillar.",
        _updates,
    ),
    Rule(
        "A302",
        "high",
        "The updates proxy lets closed qubes out",
        "dom0's policy lets more than templates use it, so they get out whatever their netvm is.",
        f"In /etc/qubes/policy.d, let {qubes_vpn_policy.SERVICE} be for templates alone.",
        _proxy_for_others,
    ),
    Rule(
        "A303",
        "low",
        "Nobody can fetch templates' updates",
        "Templates that are not updated keep their holes.",
        "Set updates.templates in the pillar to a qube that is online and runs the proxy.",
        _no_server,
    ),
    Rule(
        "A304",
        "high",
        "dom0's updates are fetched in clear",
        "Which packages a machine fetches says what it is, and when it is used.",
        "Set updates.dom0 in the pillar, or: qubes-prefs updatevm NAME.",
        _updatevm,
    ),
    Rule(
        "A305",
        "medium",
        "The time is asked for in clear",
        "It tells when the machine is on, and who answers can set its clock.",
        "Set clock in the pillar, once the tunnel comes up without it.",
        _clockvm,
    ),
    Rule(
        "A306",
        "low",
        "A second qube asks for the time",
        "The service was left on when the clock qube became another one.",
        "qvm-service --unset QUBE clocksync.",
        _other_clocks,
    ),
    Rule(
        "A307",
        "high",
        "Whonix' gateway is on the other side of the VPN",
        "Who sees that Tor is used is not whom the pillar says.",
        "Run qubes.network.sys-vpn, or change whonix or topology in the pillar.",
        _order,
    ),
    Rule(
        "A308",
        "note",
        "Nobody has said in which order Tor and VPN are to be",
        "Either somebody at the line or the VPN provider sees that Tor is used.",
        "Say in the pillar which it is to be: whonix, or a topology with Tor.",
        _order_is,
    ),
    Rule(
        "A309",
        "critical",
        "A Whonix workstation does not go through Tor",
        "It is made to be anonymous behind Whonix' gateway, and by no other netvm.",
        "qvm-prefs QUBE netvm sys-whonix.",
        _workstation,
    ),
    Rule(
        "A310",
        "high",
        "A Whonix template is not updated over Tor",
        "It is tagged to be updated over Tor and nothing else.",
        "Set whonix_gateway and updates.templates in the pillar.",
        _whonix_templates,
    ),
    Rule(
        "A311",
        "high",
        "The qubes that manage others have a network",
        "They get a copy of dom0's states, and each target's pillar.",
        "qvm-prefs QUBE netvm none.",
        _management,
    ),
    Rule(
        "A312",
        "medium",
        "Another qube may call the formula's services in it",
        "They are for dom0: they tell which tunnel is up, and can take it down. The qube still "
        "refuses whoever else calls; dom0's policy is to do so before.",
        "In /etc/qubes/policy.d, take that rule out, or rename its file so that it comes after "
        f"{qubes_vpn_policy.SERVICES_FILE}.",
        _callable,
    ),
    Rule(
        "A313",
        "note",
        "Updates are fetched in clear by choice",
        "The pillar says so (updates.outside_vpn).",
        "Nothing, if that is still what you want.",
        _chosen,
    ),
    Rule(
        "A314",
        "critical",
        "A bypass is open",
        "Whatever is in that disposable goes out in clear, and whoever is in the same network sees "
        "it.",
        "sudo qubesctl qubes_vpn.bypass close.",
        _bypass,
    ),
)
