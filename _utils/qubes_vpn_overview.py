# SPDX-License-Identifier: GPL-2.0-or-later
"""How the machine's VPN is doing, on one screen: chains, tunnels, DNS, killswitch, drift (R67)."""

import qubes_vpn_inventory
import qubes_vpn_policy
import qubes_vpn_restarts
import qubes_vpn_told
from qubes_vpn_audit_flow import Flow
from qubes_vpn_audit_view import GATEWAY as _GATEWAY
from qubes_vpn_audit_view import View
from qubes_vpn_finding import NotKnown, some
from qubes_vpn_inventory import value, way


def data(subject, report, differing):
    """It as plain data.

    subject, report: of :mod:`qubes_vpn_doctor`.  differing: steps of the plan that would change
    something, by their names.
    """
    model, inventory = subject.model, subject.inventory
    chains = _chains(subject)
    return {
        "chains": chains,
        "chains_in_clear": [chain for chain in chains if _in_clear(subject, chain)],
        "outside_vpn": sorted(model.outside_vpn),
        "tor": _tor(subject),
        "bypasses": qubes_vpn_inventory.bypasses(inventory),
        "default_netvm": inventory["globals"].get("default_netvm"),
        "tunnels": {name: _tunnel(subject, name) for name in model.tunnels()},
        "resolvers": {name: _resolver(subject, name) for name in model.resolvers()},
        "updates": _updates(subject),
        "restarts": _restarts(subject),
        "left_over": View(inventory, model).left_over(),
        "silent": dict(subject.silent),
        "differing": list(differing),
        "findings": len(report.findings),
    }


def text(found):
    """The same as lines for a screen."""
    bypasses = found["bypasses"].items()
    lines = [f"PAST THE VPN: {name}, by a bypass {until}" for name, until in bypasses]
    lines += [" -> ".join(chain) + _clear(found, chain) for chain in found["chains"]]
    lines += [_tor_line(name, tor) for name, tor in found["tor"].items()]
    for name, tunnel in found["tunnels"].items():
        lines += ["", f"{name}  {_tunnel_line(tunnel)}", *_told_lines(tunnel["told"])]
    for name, resolver in found["resolvers"].items():
        lines += ["", f"{name}  {_resolver_line(resolver)}"]
    lines += ["", *(f"{name}: {why}" for name, why in found["silent"].items())]
    if found["updates"]:
        lines.append(f"Updates: {'; '.join(map(_updates_line, found['updates']))}")
    if found["restarts"]:
        names = ", ".join(found["restarts"])
        lines.append(f"To be restarted: {names} (sudo qubesctl qubes_vpn.restarts)")
    if found["left_over"]:
        names = found["left_over"]
        lines.append(f"Left over, and in no pillar: {', '.join(names)} (qvm-remove {names[0]})")
    steps = found["differing"]
    shown = f"{', '.join(steps[:3])}{' ...' if len(steps) > 3 else ''}" if steps else "none"
    lines.append(f"Drift from the pillar ({len(steps)}): {shown}")
    fix = "sudo qubesctl qubes_vpn.doctor" if found["findings"] else "none"
    return "\n".join([*lines, f"Problems ({found['findings']}): {fix}"])


def _clear(found, chain):
    """Of a chain in clear, that it is; and which of its clients the pillar has there (R05)."""
    if chain not in found["chains_in_clear"]:
        return ""
    clients = chain[0].split(", ")
    chosen = [name for name in clients if name in found["outside_vpn"]]
    only = f" of {', '.join(chosen)} only" * (chosen != clients)
    return f"  IN CLEAR, by choice{only}" if chosen else "  IN CLEAR"


def _chains(subject):
    """Who goes which way: clients, then netvm after netvm, as the machine has it."""
    qubes = subject.inventory["qubes"]
    clients = {}
    for name, qube in qubes.items():
        netvm = value(qube, "netvm")
        carries = value(qube, "provides_network")
        if netvm and not carries:
            clients.setdefault(netvm, []).append(name)
    return [
        [", ".join(sorted(names)), *way(qubes, netvm)] for netvm, names in sorted(clients.items())
    ]


def _in_clear(subject, chain):
    """Whether a chain gets out, past each tunnel and Tor gateway there is; by whatever uplink."""
    model, qubes = subject.model, subject.inventory["qubes"]
    shelters = {*model.tunnels(), model.whonix_gateway}
    shelters |= {name for name in chain[1:] if _GATEWAY in qubes[name]["tags"]}
    return chain[-1] not in model.services and not shelters & {*chain[1:]}


def _tor(subject):
    """Where each Whonix gateway hangs, whether that is in a tunnel, and who is behind it (R08)."""
    view = View(subject.inventory, subject.model)
    return {
        name: {
            "way": view.way(name),
            "in_tunnel": any(each in view.tunnels for each in view.way(name)),
            "behind": view.behind(name),
        }
        for name in sorted(view.gateways)
        if view.klass(name) != "TemplateVM"
    }


def _tor_line(name, tor):
    if not tor["way"]:
        return f"Tor: {name} is offline"
    path = " -> ".join([name, *tor["way"]])
    seen = "" if tor["in_tunnel"] else ", PAST EVERY TUNNEL: your line sees that Tor is used"
    return f"Tor: {path}{seen}; behind it: {some(tor['behind']) or 'nobody'}"


def _updates(subject):
    """Who fetches whose updates, and whether in clear (R07); by None: policy is not understood."""
    flow = Flow(View(subject.inventory, subject.model))
    updatevm, chosen = flow.view.named.get("updatevm"), subject.model.fetched_outside()
    asked = [("templates", name) for name in _servers(flow.view)]
    rows = []
    for key, name in [*asked, *([("dom0", updatevm)] if updatevm else ())]:
        in_clear = bool(name in flow.view.qubes and flow.own(name))
        choice = in_clear and chosen.get(key) == name
        rows.append({"of": key, "by": name, "in_clear": in_clear, "by_choice": choice})
    return rows


def _servers(view):
    try:
        rules = view.policy
    except NotKnown:
        return [None]
    found = {
        qubes_vpn_policy.answer(rules, name, "TemplateVM", view.qubes[name]["tags"]).qube
        for name in view.of_class("TemplateVM")
    }
    return sorted(name.removeprefix("@dispvm:") for name in found - {None})


def _updates_line(row):
    clear = " IN CLEAR" if row["in_clear"] else ""
    choice = ", by choice" if row["by_choice"] else ""
    return f"{row['of']} {'by ' + row['by'] if row['by'] else 'not known'}{clear}{choice}"


def _restarts(subject):
    """Names of the service qubes that run on an old template, in the order of restarting."""
    old = dict.fromkeys(subject.stale, ("root",))
    found = qubes_vpn_restarts.needed(subject.inventory, old, subject.model.restart_days)
    return [each.name for each in found if each.name in subject.model.services]


def _power(subject, name):
    return subject.inventory["qubes"].get(name, {}).get("power", "missing").lower()


def _tunnel(subject, name):
    service, told = subject.model.services[name], subject.told.get(name)
    names = [each for each in (service.profile, *service.profiles) if each]
    known = {qubes_vpn_told.profile_id(each): each for each in names}
    profile = None
    if told:
        up = [each["id"] for each in told["tunnel"]["profiles"] if each["state"] != "down"]
        profile = next((known[each] for each in up if each in known), None)
    return {
        "power": _power(subject, name),
        "kind": service.kind,
        "profile": profile,
        "told": told and {key: told[key] for key in ("tunnel", "killswitch", "dns")},
    }


def _resolver(subject, name):
    told = subject.told.get(name)
    return {"power": _power(subject, name), "told": told and told["resolver"]}


def _tunnel_line(tunnel):
    told = tunnel["told"]
    if not told:
        return "not known" if tunnel["power"] == "running" else tunnel["power"]
    now = told["tunnel"]
    words = [f"{now['state']}, {tunnel['kind']}"]
    if tunnel["profile"]:
        words.append(f"profile {tunnel['profile']}")
    if now["handshake"] is not None:
        words.append(f"last handshake {_ago(now['handshake'])}")
    words.append(f"exit by {now['server']}" if now["server"] else "exit not known")
    return ", ".join(words)


def _told_lines(told):
    if not told:
        return []
    killswitch, dns, lines = told["killswitch"], told["dns"], []
    if killswitch:
        counted = killswitch["counters"] or {}
        drift = f", {killswitch['drift']} differences" if killswitch["drift"] else ""
        counts = "".join(f", {what} {number}" for what, number in counted.items())
        lines.append(f"  killswitch {killswitch['state']}{counts}{drift}")
    if dns:
        where = ", ".join(dns["resolvers"]) if dns["open"] else "closed"
        lines.append(f"  clients' DNS: {where}")
    return lines


def _resolver_line(resolver):
    told = resolver["told"]
    if not told:
        return "not known" if resolver["power"] == "running" else resolver["power"]
    answers = "answers" if told["answers"] else "does not answer"
    counts = "".join(f", {what} {number}" for what, number in (told["counters"] or {}).items())
    return f"{answers}, rules {told['state']}{counts}"


def _ago(seconds):
    for length, word in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * length:
            return f"{seconds // length} {word} ago"
    return f"{seconds} seconds ago"
