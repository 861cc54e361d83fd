# SPDX-License-Identifier: GPL-2.0-or-later
"""Audit rules about the user's own qubes, where they are not as the layout says (R10, R11, R13)."""

import qubes_vpn_layout
import qubes_vpn_net
from qubes_vpn_finding import Rule

_NO_LIST = ["action=accept"]


def _qubes(view, there=True):
    """The layout's qubes that are on the machine, or those that are not: ``(name, LayoutQube)``."""
    for name, qube in view.model.layout.items() if view.model else ():
        if (name in view.qubes) == there:
            yield name, qube


def _missing(flow):
    for name, _ in _qubes(flow.view, there=False):
        yield name, "there is no such qube"


def _otherwise(flow):
    view = flow.view
    for name, qube in _qubes(view):
        wanted = {"label": qube.label, "template": qube.template}
        wanted["default_dispvm"] = qube.default_dispvm
        wanted["template_for_dispvms"] = qube.disposable_template or None
        for key, value in wanted.items():
            has = view.value(name, key)
            if value is not None and (has or "none") != value:
                yield name, f"{key} is {_plain(has)}, and the layout says {_plain(value)}"


def _elsewhere(flow):
    view = flow.view
    routes = view.model.client_routes(view.qubes) if view.model else {}
    for name, _ in _qubes(view):
        wanted = None if name in view.model.vaults else routes.get(name)
        has = view.wiring[name] or "none"
        if wanted not in (None, has):
            yield name, f"its netvm is {has}, and the layout says {wanted}"


def _another_list(flow):
    view = flow.view
    for name, _ in _qubes(view):
        if name in view.model.allowlists:
            wanted = qubes_vpn_net.rules(view.model.allowlists[name])
            if _words(view.rules(name)) != _words(wanted):
                yield name, "its firewall list is not its allowlist"


def _words(rules):
    """Rules without comments and the order of their words, which differ between notations."""
    return [sorted(rule.split(" comment=")[0].split()) for rule in rules]


def _no_list(flow):
    view = flow.view
    for name, _ in _qubes(view):
        open_list = [rule.split(" comment=")[0] for rule in view.rules(name)[:1]] == _NO_LIST
        lacks = qubes_vpn_layout.lacks_list(view.model, name)
        if lacks and view.wiring[name] and open_list:
            yield name, f"it may reach everything behind {view.wiring[name]}"


def _not_tor(flow):
    view = flow.view
    for name, _ in _qubes(view):
        if name in view.model.otherwise and view.model.routes[name] not in view.qubes:
            gateway, instead = view.model.routes[name], view.model.otherwise[name]
            yield name, f"there is no {gateway}, so its way is {instead}: the VPN, not Tor"


def _shared_firewall(flow):
    view = flow.view
    for name, qube in _qubes(view):
        for client, netvm in sorted(view.wiring.items()):
            its = {client, view.value(client, "template")}  # its disposables are of its kind
            if qube.firewall and netvm == qube.firewall and name not in its:
                yield client, f"it hangs on {netvm}, which is there for {name} alone"


def _plain(value):
    return str(value).lower() if isinstance(value, bool) else value or "none"


RULES = (
    Rule(
        "A501",
        "low",
        "A qube of the layout is missing",
        "What it is for is done in another qube meanwhile.",
        "qubesctl state.sls qubes.layout; or take it out of the pillar.",
        _missing,
    ),
    Rule(
        "A502",
        "note",
        "A qube of the layout is not as the pillar says",
        "One that was there before is never changed: it keeps its template, label and disposables.",
        "qvm-prefs QUBE, with the key and the value that are told; or write what it has.",
        _otherwise,
    ),
    Rule(
        "A503",
        "medium",
        "A qube of the layout hangs elsewhere",
        "Who sees its traffic, and who enforces its list, is not who the pillar says.",
        "qubesctl state.sls qubes.layout; or write in the pillar where it belongs.",
        _elsewhere,
    ),
    Rule(
        "A504",
        "high",
        "A qube of the layout has another firewall list than its allowlist",
        "It may reach more than it is for, or less.",
        "qubesctl state.sls qubes.layout.",
        _another_list,
    ),
    Rule(
        "A505",
        "medium",
        "A qube for one purpose may reach everything",
        "What is opened in it by mistake runs beside what it is for.",
        "Write its allowlist into the pillar, and apply it.",
        _no_list,
    ),
    Rule(
        "A506",
        "note",
        "The VPN instead of Tor",
        "The VPN provider knows whose line it is; Tor's relays would not.",
        "Install Whonix' gateway, and apply the pillar again; or write netvm: default.",
        _not_tor,
    ),
    Rule(
        "A507",
        "low",
        "Somebody else hangs on a firewall qube that is there for one qube",
        "Whoever takes it over from there has what enforces that qube's list, and its traffic.",
        "Give it another netvm, in the pillar (routes.qubes) or by qvm-prefs QUBE netvm NAME.",
        _shared_firewall,
    ),
)
