# SPDX-License-Identifier: GPL-2.0-or-later
"""The doctor's checks of what dom0 knows: who runs, who hangs on whom, which lists are enforced."""

import qubes_vpn_callers
import qubes_vpn_client_dns
import qubes_vpn_inventory
import qubes_vpn_net
import qubes_vpn_policy
import qubes_vpn_updates
from qubes_vpn_finding import NotKnown, Rule
from qubes_vpn_inventory import value

_RUN = "Apply the formula in dom0: sudo qubesctl state.sls qubes.network.sys-vpn"
_TEMPLATE = (
    "Apply the formula to QUBE's template, restart QUBE, then apply it to QUBE: sudo qubesctl "
    "--skip-dom0 --targets=TEMPLATE,QUBE state.sls qubes.network.sys-vpn"
)


def _here(subject, names):
    """Those of *names* that there are, with what the inventory has of them."""
    qubes = subject.inventory["qubes"]
    return [(name, qubes[name]) for name in dict.fromkeys(names) if name in qubes]


def _missing(subject):
    model, qubes = subject.model, subject.inventory["qubes"]
    for name in model.services:
        if name not in qubes:
            yield name, "There is no such qube"
    if model.gateway_netvm is not None and model.whonix_gateway not in qubes:
        yield model.whonix_gateway, "There is no such qube; Whonix' gateway is not the formula's"


def _off(subject):
    for name, qube in _here(subject, subject.model.services):
        if qube["power"] != "Running":
            yield name, f"It is {qube['power'].lower()}, and who is behind it is offline"


def _silent(subject):
    for name, why in subject.silent.items():
        yield name, why.removesuffix(".")


def _stale(subject):
    for name in sorted(subject.stale):
        yield name, "It runs with its template, or what it is made from, as that was before"


def _not_updated(subject):
    """Of what the network rests on; the audit looks at every template."""
    qubes = subject.inventory["qubes"]
    below = {"dom0"}
    for name in (*subject.model.services, subject.model.uplink):
        while name in qubes and name not in below:
            below.add(name)
            name = value(qubes[name], "template")
    for name, said in qubes_vpn_updates.overdue(subject.inventory, subject.model.check_days):
        if name in below:
            yield name, f"{said[0].upper()}{said[1:]}"


def _service_netvm(subject):
    for name, qube in _here(subject, subject.model.services):
        wanted = subject.model.services[name].upstream
        if value(qube, "netvm") != wanted:
            yield name, f"Its netvm is {value(qube, 'netvm') or 'none'}, and should be {wanted}"


def _provides(subject):
    for name, qube in _here(subject, subject.model.services):
        if not value(qube, "provides_network"):
            yield name, "provides_network is off"


def _client_netvm(subject):
    routes = subject.model.client_routes(subject.inventory["qubes"])
    for name, qube in _here(subject, routes):
        if name in subject.model.vaults:
            continue
        is_now, wanted = value(qube, "netvm") or "none", routes[name]
        if is_now != wanted:
            yield name, f"Its netvm is {is_now}, and should be {wanted}"


def _default(subject):
    wanted, is_now = subject.model.default, subject.inventory["globals"].get("default_netvm")
    if wanted != "keep" and (is_now or "none") != wanted:
        yield "dom0", f"default_netvm is {is_now or 'none'}, and should be {wanted}"


def _vault(subject):
    for name, qube in _here(subject, subject.model.vaults):
        if value(qube, "netvm"):
            yield name, f"Its netvm is {value(qube, 'netvm')}"


def _services(subject):
    """Whose files do nothing, because dom0 has not switched them on."""
    for name, qube in _here(subject, subject.model.services):
        service = subject.model.services[name]
        wanted = {"tunnel": ["qubes-vpn"], "resolver": ["qubes-vpn-dns"]}.get(service.role, [])
        if service.role == "tunnel" and service.kind != "mullvad":
            wanted = [*wanted, "network-manager"]
        for flag in wanted:
            if qube["features"].get(f"service.{flag}") != "1":
                yield name, f"The service {flag} is off"


def _list(subject):
    for name, qube in _here(subject, subject.model.tunnels()):
        wanted = qubes_vpn_net.rules(subject.model.services[name].endpoints)
        has = qube.get("firewall") or []
        if _words(has) != _words(wanted):
            wide = "lets everything through" if "action=accept" in has else "is another one"
            yield name, f"Its firewall list {wide}, and should name its {len(wanted) - 1} endpoints"


def _words(rules):
    """Rules without the order of their words, which is another one in every notation."""
    return [sorted(rule.split()) for rule in rules]


def _unenforced(subject):
    upstreams = [subject.model.services[name].upstream for name in subject.model.tunnels()]
    for name, _ in _here(subject, upstreams):
        if not _enforces(subject.inventory["qubes"], name):
            yield name, "It does not run qubes-firewall"


def _enforces(qubes, name):
    """As :meth:`qubes_vpn_machine.Machine.enforces`."""
    if qubes[name]["features"].get("service.qubes-firewall") == "":
        return False
    seen = set()
    while name in qubes and name not in seen:
        if qubes[name]["features"].get("qubes-firewall"):
            return True
        seen.add(name)
        name = value(qubes[name], "template")
    return False


def _client_names(subject):
    """Whose own list stops its DNS."""
    roles = {name: service.role for name, service in subject.model.services.items()}
    for name, qube in _here(subject, subject.model.routes):
        netvm, rules = value(qube, "netvm"), qube.get("firewall")
        if not netvm or not rules:
            continue
        if told := qubes_vpn_client_dns.remark(name, rules, netvm, roles.get(netvm)):
            yield name, told.removeprefix(f"{name}: ").removesuffix(".")


def _callable(subject):
    """By which rules of dom0's policy others may call what is dom0's alone to call."""
    names = (*subject.model.tunnels(), *subject.model.resolvers())
    for name, qube in _here(subject, names):
        policy, tags = subject.inventory["policy"], qube["tags"]
        try:
            found = qubes_vpn_callers.let_in(policy, name, qube["class"], tags)
        except qubes_vpn_policy.NotPolicy as error:
            raise NotKnown(f"dom0's qrexec policy is not understood ({error})") from None
        for rule in found:
            yield name, rule


def _bypass(subject):
    for name, until in qubes_vpn_inventory.bypasses(subject.inventory).items():
        power = subject.inventory["qubes"][name]["power"].lower()
        yield name, f"It may go past the VPN {until}, and is {power}"


RULES = (
    Rule(
        "D101",
        "high",
        "A service qube is missing",
        "Whoever is to go through it is offline, or goes another way.",
        _RUN,
        _missing,
    ),
    Rule(
        "D102",
        "high",
        "A service qube does not run",
        "Qubes behind it have no network.",
        "Start it: qvm-start QUBE. If it was paused: qvm-unpause QUBE",
        _off,
    ),
    Rule(
        "D103",
        "high",
        "A VPN or resolver qube gives no answer that can be used",
        "Nothing is known of its killswitch, tunnel and DNS.",
        _TEMPLATE,
        _silent,
    ),
    Rule(
        "D104",
        "medium",
        "A service qube runs with an old template",
        "What was changed in the template since, fixes among it, is not in the qube.",
        "Restart it: qvm-shutdown --wait --force QUBE && qvm-start QUBE; which ones, in which "
        "order: sudo qubesctl qubes_vpn.restarts",
        _stale,
    ),
    Rule(
        "D105",
        "low",
        "What the network rests on was up to date long ago, or never",
        "Nobody looks for updates, or they do not get there: known holes stay open.",
        "Update it: the Qubes Update tool, or qubes-vm-update --force-update --targets QUBE; dom0: "
        "qubes-dom0-update. If that fails, look at who fetches for it (pillar: updates)",
        _not_updated,
    ),
    Rule(
        "D111",
        "critical",
        "A service qube hangs on another netvm than it should",
        "What goes through it takes another way, which may be one past the VPN.",
        _RUN,
        _service_netvm,
    ),
    Rule(
        "D112",
        "high",
        "A service qube does not provide network",
        "Nobody can have it as netvm, and who has is offline.",
        _RUN,
        _provides,
    ),
    Rule(
        "D113",
        "critical",
        "A qube hangs on another netvm than the pillar routes it to",
        "It is offline, or goes past the VPN.",
        f"{_RUN}. If the pillar is what is wrong: change routes there",
        _client_netvm,
    ),
    Rule(
        "D114",
        "high",
        "dom0's default_netvm is not the pillar's",
        "Every qube without a netvm of its own choice takes it, new ones too.",
        _RUN,
        _default,
    ),
    Rule(
        "D115",
        "critical",
        "A vault has a netvm",
        "A vault is offline: what is in it must not be able to leave.",
        "Take it offline: qvm-prefs QUBE netvm ''",
        _vault,
    ),
    Rule(
        "D116",
        "critical",
        "A service of a VPN or resolver qube is off",
        "Its files do nothing: no killswitch, no tunnel, or no DNS.",
        f"{_RUN}; then restart QUBE",
        _services,
    ),
    Rule(
        "D121",
        "high",
        "A VPN qube's firewall list is not the list of its endpoints",
        "The qube upstream of it would let out what a compromised VPN qube sends.",
        _RUN,
        _list,
    ),
    Rule(
        "D122",
        "high",
        "The qube upstream of a VPN qube enforces no firewall lists",
        "The VPN qube's list holds nobody.",
        "Install qubes-core-agent-networking in QUBE's template, switch it on (qvm-service QUBE "
        "qubes-firewall on), and restart QUBE",
        _unenforced,
    ),
    Rule(
        "D123",
        "low",
        "A qube's own firewall list decides about its DNS",
        "It may have no names, or more of them than the list says.",
        "Change its list, or its allowlist in the pillar",
        _client_names,
    ),
    Rule(
        "D124",
        "medium",
        "Another qube may call the formula's services in it",
        "They are for dom0. The qube still refuses whoever else calls; dom0's policy is to do so "
        "before.",
        "In /etc/qubes/policy.d, take that rule out, or rename its file so that it comes after "
        f"{qubes_vpn_policy.SERVICES_FILE}",
        _callable,
    ),
    Rule(
        "D125",
        "critical",
        "A bypass is open",
        "Whatever is in that disposable goes out in clear.",
        "Whether it is ended by itself: sudo qubesctl qubes_vpn.bypass. To close it now: "
        "sudo qubesctl qubes_vpn.bypass close",
        _bypass,
    ),
)
