# SPDX-License-Identifier: GPL-2.0-or-later
"""Pillars as people write them, with a layout, a bypass and updates; and what they mean."""

from core.machines import CHAINS, GATEWAY, UPLINK, is_clear
from hypothesis import strategies as st

import qubes_vpn_model

#: The canonical qubes: where each is to hang, by a word or none.
CANONICAL = {
    "vault": "none",
    "personal": "default",
    "work": "default",
    "banking": "default",
    "comms": "tor_or_default",
    "untrusted": "tor_or_default",
}
BANK = "sys-firewall-bank"
_LIST = ["203.0.113.9:443/tcp", "dns"]


@st.composite
def written(draw, document):
    """*document* (of `core.machines.pillars`), and what else fits it."""
    for more in (_layouts, _bypasses, _updates):
        wanted = {**document, **more(draw, document)}
        if not qubes_vpn_model.read(wanted)[1]:
            document = wanted
    return document


def meaning(document, tor):
    """The same pillar, in which the layout says nothing any more: the sections say it.

    tor: whether Whonix' gateway is on the machine.
    """
    routes, vaults = dict(document["routes"]["qubes"]), list(document["vaults"])
    lists, firewalls = dict(document["allowlists"]), dict(document["firewalls"])
    default, (_, head) = document["routes"].get("default"), CHAINS[document["topology"]]
    way = head if default in (None, "none", "keep") else default
    words = {"default": way, "tor_or_default": GATEWAY if tor else way}
    for name, keys in layout(document).items():
        if "allowlist" in keys:
            lists[name] = keys["allowlist"]
        netvm = keys.get("netvm") or CANONICAL.get(name)
        if name == "banking" and name not in lists and "netvm" not in keys:
            netvm = "none"
        if name in routes or name in vaults or netvm is None:
            continue
        netvm = words.get(netvm, netvm)
        if "firewall" in keys:
            firewalls[keys["firewall"]], netvm = {"upstream": netvm}, keys["firewall"]
        if name == "vault" and netvm == "none":
            vaults.append(name)
        else:
            routes[name] = netvm
    return {
        **document,
        "routes": {**document["routes"], "qubes": routes},
        "vaults": vaults,
        "allowlists": lists,
        "firewalls": firewalls,
    }


def layout(document):
    """The layout's qubes, each with its keys."""
    found = document["layout"]
    return {name: {} for name in CANONICAL} if found == "canonical" else found


def _layouts(draw, document):
    """All of the canonical qubes, some of them, or routes and lists as keys of their qubes."""
    kind = draw(st.sampled_from(["as it is", "canonical", "presets", "keys"]))
    if kind == "canonical":
        return {"layout": "canonical"}
    if kind == "presets":
        names = st.lists(st.sampled_from(sorted(CANONICAL)), unique=True)
        keys = {name: {} for name in draw(names)}
        if "banking" in keys and "banking" not in document["routes"]["qubes"]:
            more = {"allowlist": _LIST, **draw(st.sampled_from([{}, {"firewall": BANK}]))}
            keys["banking"] = draw(st.sampled_from([{}, more]))
        return {"layout": keys}
    if kind == "keys":
        routes, lists = dict(document["routes"]["qubes"]), dict(document["allowlists"])
        keys = {}
        for name in [name for name in routes if draw(st.booleans())]:
            keys[name] = {"label": "blue", "netvm": routes.pop(name)}
            if name in lists:
                keys[name]["allowlist"] = lists.pop(name)
        routes = {**document["routes"], "qubes": routes}
        return {"layout": keys, "routes": routes, "allowlists": lists}
    return {}


def _bypasses(draw, document):
    """By any of the qubes that are past the VPN."""
    netvm = draw(st.sampled_from([None, *_netvms(document, clear=True)]))
    return {"bypass": {"netvm": netvm}} if netvm else {}


def _updates(draw, document):
    """dom0's, through the VPN or past it by choice; and the time."""
    everywhere = _netvms(document, clear=False) + _netvms(document, clear=True)
    dom0 = draw(st.sampled_from(["keep", "none", *everywhere]))
    past = ["dom0"] if dom0 in _netvms(document, clear=True) else []
    clock = draw(st.sampled_from(["keep", *_netvms(document, clear=False)]))
    return {"updates": {"dom0": dom0, "outside_vpn": past}, "clock": clock}


def _netvms(document, clear):
    """Names of the netvms that the pillar has past every tunnel, or behind one."""
    wiring = design(document)
    return [name for name in (UPLINK, *wiring) if is_clear(name, wiring) == clear]


def design(document):
    """Every service qube's upstream by the pillar, and that of the gateway by the topology."""
    chain, _ = CHAINS[document["topology"]]
    services = {**document["tunnels"], **document["resolvers"], **document["firewalls"]}
    wiring = {name: keys.get("upstream", chain.get(name)) for name, keys in services.items()}
    return wiring | ({GATEWAY: chain[GATEWAY]} if GATEWAY in chain else {})
