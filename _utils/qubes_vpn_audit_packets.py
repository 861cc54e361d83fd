# SPDX-License-Identifier: GPL-2.0-or-later
"""Audit rules about packets: whose can leave in clear, and whose will when something restarts."""

import qubes_vpn_audit_flow
from qubes_vpn_finding import Rule, some

_WAYS = {qubes_vpn_audit_flow.PACKETS: "packets", qubes_vpn_audit_flow.NAMES: "DNS"}


def _in_clear(flow):
    """Whoever sends something in clear that nobody has chosen, and is no service qube."""
    view = flow.view
    open_ones = view.chosen() | view.in_front() | {*view.bases()} | {*view.services_in_clear()}
    for name in sorted(view.qubes):
        if name in open_ones or view.is_end(name):
            continue
        if own := flow.own(name):
            yield name, _told(own)


def _default(flow):
    view, name = flow.view, flow.view.named["default_netvm"]
    if name and not view.shelters(name) and (view.is_end(name) or flow.own(name)):
        heirs = [each for each in sorted(view.qubes) if _is_heir(view, each)]
        now = f"now {some(heirs)}" if heirs else "now nobody"
        yield "dom0", f"default_netvm is {name}; who inherits it: {now}"


def _offline_by_default(flow):
    for name in sorted(flow.view.qubes):
        if flow.view.wiring[name] is None and _is_heir(flow.view, name):
            yield name, "it has no netvm of its own choice, and default_netvm is none today"


def _is_heir(view, name):
    return view.inherits(name, "netvm") and view.klass(name) in ("AppVM", "DispVM", "StandaloneVM")


def _no_network(flow):
    for name, netvm in sorted(flow.view.wiring.items()):
        if netvm and flow.view.value(netvm, "provides_network") is not True:
            yield name, f"its netvm {netvm} provides no network"


def _uplinks(flow):
    view = flow.view
    ends = [name for name in sorted(view.qubes) if view.is_end(name) and not view.shelters(name)]
    known = [view.model.uplink] if view.model else ends[:1] if len(ends) == 1 else []
    for name in ends:
        if name not in known:
            yield name, "it provides network and has no netvm, so it may have hardware of its own"


def _disposables(flow):
    for name in flow.view.bases():
        if name not in flow.view.chosen() and (own := flow.own(name)):
            yield name, f"each disposable of it: {_told(own)}"


def _opened(flow):
    """What a qube that is closed itself opens in a disposable that is not."""
    view = flow.view
    for name in sorted(view.qubes):
        if view.klass(name) not in ("AdminVM", "TemplateVM") and not flow.own(name):
            base = view.disposables_of(name)
            if base and (own := flow.own(base)):
                yield name, f"in a disposable of {base}: {_told(own)}"


def _next_one(flow):
    view = flow.view
    for name in view.of_class("DispVM"):
        base = view.value(name, "template")
        stays = view.value(name, "auto_cleanup") is False  # and its netvm with it
        if base and not stays and not flow.own(name) and flow.own(base):
            yield name, f"it is closed itself, and {base} is not"


def _preloaded(flow):
    view = flow.view
    for name in view.of_class("DispVM"):
        base = view.value(name, "template")
        if view.value(name, "is_preload") and view.wiring[name] != view.wiring.get(base):
            yield name, f"it hangs on {view.wiring[name] or 'nobody'}, {base} does not"


def _deferred(flow):
    for name in sorted(flow.view.qubes):
        old = flow.view.feature(name, "deferred-netvm-original")
        if old is not None:
            yield name, f"paused with its connection to {old or 'nobody'}"


def _chosen(flow):
    for name in sorted(flow.view.chosen() & flow.view.qubes.keys()):
        if own := flow.own(name):
            yield name, _told(own)


def _in_front(flow):
    view = flow.view
    for name in sorted(view.in_front() | {*view.services_in_clear()}):
        if not view.shelters(name) and (own := flow.own(name)):
            yield name, f"what it sends itself: {_told(own)}"


def _told(own):
    """Which kinds of packets, and by which way."""
    kinds = " and ".join(_WAYS[kind] for kind in own)
    way = next(iter(own.values()))
    return f"{kinds} by {', '.join(way)}"


RULES = (
    Rule(
        "A101",
        "critical",
        "Packets of it can leave in clear",
        "Neither a closed VPN qube nor Tor is on its way, and the firewall lists let it pass.",
        "Route it (pillar: routes.qubes), or name it in outside_vpn. "
        "At once: qvm-prefs QUBE netvm none.",
        _in_clear,
    ),
    Rule(
        "A102",
        "high",
        "dom0's default_netvm leads out in clear",
        "Each new qube, and each without a netvm of its own choice, is in clear.",
        "Set routes.default in the pillar.",
        _default,
    ),
    Rule(
        "A103",
        "medium",
        "It is offline only because default_netvm is none",
        "Who sets default_netvm puts it online too.",
        "qvm-prefs QUBE netvm none; for good: routes.qubes or vaults in the pillar.",
        _offline_by_default,
    ),
    Rule(
        "A104",
        "medium",
        "Its netvm provides no network",
        "Its packets go nowhere, or wherever that qube sends them when it provides network again.",
        "Give it another netvm.",
        _no_network,
    ),
    Rule(
        "A105",
        "medium",
        "There may be another uplink",
        "Whoever hangs on it is past the VPN, and so is what it sends itself.",
        "If it has no network hardware: qvm-prefs QUBE provides_network False.",
        _uplinks,
    ),
    Rule(
        "A106",
        "high",
        "Disposables of it are in clear",
        "A disposable has the netvm and the firewall list of what it is made from.",
        "Set disposables in the pillar, or: qvm-prefs QUBE netvm NETVM.",
        _disposables,
    ),
    Rule(
        "A107",
        "high",
        "What it opens in a disposable leaves in clear",
        "Links and files of a qube behind the VPN are opened where the VPN is not.",
        "Set default_dispvm or disposables in the pillar, or: qvm-prefs QUBE default_dispvm NAME.",
        _opened,
    ),
    Rule(
        "A108",
        "medium",
        "Closed today, and in clear at its next start",
        "A disposable is made anew, with the netvm of its template.",
        "Set disposables in the pillar, or move its template.",
        _next_one,
    ),
    Rule(
        "A109",
        "medium",
        "A preloaded disposable has another netvm than its template",
        "It is handed out as it is.",
        "Discard it: qvm-kill QUBE.",
        _preloaded,
    ),
    Rule(
        "A110",
        "low",
        "Its netvm was changed while it was paused",
        "It gets the new one when it goes on; until then it has the old connection.",
        "qvm-unpause QUBE, and look again.",
        _deferred,
    ),
    Rule(
        "A111",
        "note",
        "In clear by choice",
        "The pillar says so (outside_vpn, whonix: direct).",
        "Nothing, if that is still what you want.",
        _chosen,
    ),
    Rule(
        "A112",
        "note",
        "A service qube in front of the VPN, or past it",
        "What it sends itself is in clear, and nothing holds it but its own firewall list.",
        "Nothing; install nothing in it.",
        _in_front,
    ),
)
