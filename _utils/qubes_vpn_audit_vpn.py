# SPDX-License-Identifier: GPL-2.0-or-later
"""Audit rules about VPN and resolver qubes, and firewall lists."""

import ipaddress

import qubes_vpn_client_dns
import qubes_vpn_net
from qubes_vpn_audit_view import RESOLVER, VPN
from qubes_vpn_finding import Rule, some

_ALL = "action=accept"


def _not_closed(flow):
    yield from _without(flow.view, "tunnel", VPN)


def _no_resolver(flow):
    yield from _without(flow.view, "resolver", RESOLVER)


def _without(view, role, flag):
    """The pillar's qubes of a *role* without the service that makes them one."""
    for service in view.services():
        there = service.role == role and service.name in view.qubes
        if there and view.feature(service.name, flag) != "1":
            yield service.name, f"{flag} is not on"


def _wide(flow):
    view = flow.view
    for name in view.all_tunnels():
        meant = view.endpoints(name)
        more = [rule for rule in _accepting(view, name) if _is_wide(rule, meant)]
        if more:
            yield name, f"its list has {some(more)}"


def _is_wide(rule, meant):
    """Whether an accepting rule is for more than an endpoint; meant: the pillar's, if any."""
    if meant is not None:
        return {*rule.split()} not in meant and "dsthost=" not in rule
    fields = _fields(rule)
    if "dsthost" in fields:
        return False  # told by itself
    address = fields.get("dst4") or fields.get("dst6")
    if not address or not {"proto", "dstports"} <= fields.keys():
        return True
    network = ipaddress.ip_network(address, strict=False)
    return network.prefixlen < qubes_vpn_net.WIDEST_ENDPOINT[network.version]


def _named(flow):
    for name in flow.view.all_tunnels():
        if hosts := _hosts(flow.view, name):
            yield name, f"its list names {some(hosts)}"


def _unheld_tunnel(flow):
    view = flow.view
    for name in view.all_tunnels():
        netvm = view.wiring[name]
        if netvm and (netvm in view.gateways or not view.enforces(netvm)):
            yield name, f"{netvm} does not enforce the lists of who hangs on it"


def _unheld(flow):
    view, tunnels = flow.view, flow.view.all_tunnels()
    for name, netvm in sorted(view.wiring.items()):
        limited = name not in tunnels and not _is_open(view, name)
        if netvm and limited and (netvm in view.gateways or not view.enforces(netvm)):
            yield name, f"it has a list, and {netvm} does not enforce any"


def _may_not_resolve(flow):
    view, tunnels = flow.view, flow.view.all_tunnels()
    for name in sorted(view.qubes):
        netvm = view.wiring[name]
        if netvm and name not in tunnels and (hosts := _hosts(view, name)):
            yield name, f"its list names {some(hosts)}"


def _asked_in_clear(flow):
    view = flow.view
    for name in sorted(view.qubes):
        netvm = view.wiring[name]
        if netvm and (hosts := _hosts(view, name)) and flow.own(netvm):
            yield name, f"{netvm} asks for {some(hosts)}"


def _allow_all(flow):
    view = flow.view
    for name in sorted(view.in_front()):
        held = view.wiring[name] not in view.gateways  # which heed no lists
        if held and not view.shelters(name) and _is_open(view, name):
            yield name, "its own list lets everything through"


def _unnamed(flow):
    """Who has the service of a VPN qube, and is none by the pillar: its files may not be there."""
    view = flow.view
    if not view.model:
        return
    named = {*view.model.tunnels(), *view.model.homes(), *view.left_over()}
    for name in sorted(view.tunnels - named):
        yield name, f"{VPN} is on, and the pillar has no such tunnel"


def _is_open(view, name):
    """Whether a qube's list begins with letting everything through, with or without a comment."""
    return [rule.split(" comment=")[0] for rule in view.rules(name)[:1]] == [_ALL]


def _both(flow):
    for name in sorted(flow.view.tunnels & flow.view.resolvers):
        yield name, f"{VPN} and {RESOLVER} are on"


def _custom_persist(flow):
    view = flow.view
    view.need("service.custom-persist")
    for name in sorted(view.tunnels | view.resolvers):
        if view.feature(name, "service.custom-persist"):
            yield name, "service.custom-persist is on"


def _ipv6(flow):
    view = flow.view
    view.need("ipv6")
    behind = {}
    for name in sorted(view.qubes):
        way = [name, *view.way(name)]
        netvm = next((each for each in way[1:] if view.shelters(each)), None)
        values = [value for each in way if (value := view.feature(each, "ipv6")) is not None]
        if netvm and values and values[0]:
            behind.setdefault(netvm, []).append(name)
    for netvm, names in sorted(behind.items()):
        yield netvm, f"IPv6 is on for {some(names)}"


def _names(flow):
    view = flow.view
    roles = {service.name: service.role for service in view.services()}
    roles |= dict.fromkeys(view.tunnels, "tunnel") | dict.fromkeys(view.resolvers, "resolver")
    for name, netvm in sorted(view.wiring.items()):
        role = roles.get(netvm)
        asked = name not in roles or (roles[name] == "firewall" and role != "resolver")
        if role and asked and (role == "resolver" or view.enforces(netvm)):
            text = qubes_vpn_client_dns.remark(name, view.rules(name), netvm, role)
            if text:
                yield name, text.removeprefix(f"{name}: ").removesuffix(".")


def _memory(flow):
    view = flow.view
    meant = {service.name: service.maxmem for service in view.services()}
    for name in sorted(view.tunnels | view.resolvers | (meant.keys() & view.qubes.keys())):
        memory, most = view.value(name, "memory"), view.value(name, "maxmem")
        if memory is None or most is None:
            continue
        if 0 < most < memory:
            yield name, f"memory is {memory} MB and maxmem {most} MB"
        elif most == 0 and meant.get(name):
            yield (
                name,
                f"maxmem is 0, which switches balancing off; the pillar says {meant[name]} MB",
            )


def _accepting(view, name):
    rules = [rule.split(" comment=")[0] for rule in view.rules(name)]
    return [rule for rule in rules if rule.startswith(_ALL)]


def _hosts(view, name):
    found = [_fields(rule).get("dsthost") for rule in view.rules(name)]
    return sorted({host for host in found if host})


def _fields(rule):
    return dict(word.split("=", 1) for word in rule.split(" comment=")[0].split())


RULES = (
    Rule(
        "A201",
        "critical",
        "A VPN qube without its killswitch",
        "While the tunnel is down, its clients and the qube itself go out in clear.",
        "Run qubes.network.sys-vpn; by hand: qvm-service QUBE qubes-vpn on, and restart it.",
        _not_closed,
    ),
    Rule(
        "A202",
        "high",
        "A resolver qube without its rules",
        "Clients' DNS passes it as they send it, instead of being answered there.",
        "Run qubes.network.sys-vpn; by hand: qvm-service QUBE qubes-vpn-dns on, and restart it.",
        _no_resolver,
    ),
    Rule(
        "A203",
        "high",
        "A VPN qube's list lets more through than its endpoints",
        "The list is what is left when the VPN qube itself is taken over or its rules are gone.",
        "Run qubes.network.sys-vpn, or take the rules out: qvm-firewall QUBE.",
        _wide,
    ),
    Rule(
        "A204",
        "high",
        "A VPN qube's list names a host",
        "A name that does not resolve blocks all its traffic, and it is asked for in clear.",
        "Write the addresses as endpoints in the pillar, and run it.",
        _named,
    ),
    Rule(
        "A205",
        "high",
        "A VPN qube's list is not enforced",
        "Lists are enforced by qubes-firewall in the netvm; Whonix' gateway does not heed them.",
        "Install qubes-core-agent-networking in the netvm's template, or: "
        "qvm-service NETVM qubes-firewall on.",
        _unheld_tunnel,
    ),
    Rule(
        "A206",
        "high",
        "A qube's firewall list is not enforced",
        "It reads as a limit and is none.",
        "Give it a netvm with qubes-core-agent-networking, and its service qubes-firewall on.",
        _unheld,
    ),
    Rule(
        "A207",
        "note",
        "A firewall list names a host",
        "If one name does not resolve when the list is read, all traffic of the qube is blocked.",
        "Write addresses where they do not change.",
        _may_not_resolve,
    ),
    Rule(
        "A208",
        "medium",
        "A list's host names are asked for in clear",
        "The netvm looks them up itself, and its own DNS is past the VPN.",
        "Give the qube a netvm behind the VPN, or write addresses.",
        _asked_in_clear,
    ),
    Rule(
        "A209",
        "low",
        "A qube in front of the VPN may send anything",
        "With a list of the VPN qube's endpoints, what is taken over there gets no further.",
        "Give QUBE the VPN qube's list: qvm-firewall.",
        _allow_all,
    ),
    Rule(
        "A210",
        "high",
        "A VPN qube and a resolver in one",
        "Both have rules of the same name: which are loaded is chance.",
        "Switch one off: qvm-service QUBE qubes-vpn-dns off; two qubes do two jobs.",
        _both,
    ),
    Rule(
        "A211",
        "high",
        "custom-persist is on in a service qube",
        "Scripts and bind-dirs in /rw/config do not count then: a killswitch that is kept there is "
        "not loaded, and what a VPN app keeps is lost.",
        "qvm-service QUBE custom-persist off.",
        _custom_persist,
    ),
    Rule(
        "A212",
        "low",
        "IPv6 is on behind a VPN qube",
        "A tunnel without IPv6 drops it, so programs wait; a VPN of another kind may let it out.",
        "If the tunnel has no IPv6: qvm-features QUBE ipv6 ''.",
        _ipv6,
    ),
    Rule(
        "A213",
        "low",
        "A firewall list and DNS do not fit",
        "Where DNS goes depends on the netvm, and the list does not say the same.",
        "See there.",
        _names,
    ),
    Rule(
        "A214",
        "low",
        "Memory of a service qube",
        "Too little, or not balanced, and the qube that carries the others may not start, or holds "
        "memory that others lack.",
        "qvm-prefs QUBE maxmem MEGABYTES, as the pillar has it.",
        _memory,
    ),
    Rule(
        "A215",
        "high",
        "A VPN qube that the pillar does not name",
        "It counts as closed here by its service alone: nobody has put the killswitch's files "
        "into its template, and without them the service does nothing.",
        "Name it in the pillar, tunnels; or: qvm-service --unset QUBE qubes-vpn.",
        _unnamed,
    ),
)
