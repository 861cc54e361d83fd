# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's own qubes: the canonical ones as data, and what a pillar's ``layout`` says (R10).

A key of a qube says the same as ``routes.qubes``, ``vaults``, ``allowlists`` or ``firewalls`` do
for any qube, and becomes that: who reads a model later need not know where it was written.
"""

from typing import NamedTuple

from qubes_vpn_problem import Problem, show, suggest
from qubes_vpn_types import MapOf, refuse

#: All of the presets, written as one word.
CANONICAL = "canonical"
#: Words for a netvm: where routes.default leads, and Whonix' gateway or else that.
DEFAULT, TOR_OR_DEFAULT = "default", "tor_or_default"
#: What a qube of the layout of one of these names is, unless the pillar says otherwise.  No
#: templates: which there are depends on the release and the user, and a missing one stops a run.
PRESETS = {
    "vault": {"label": "black", "vault": True, "maxmem": 2000, "default_dispvm": "none"},
    "personal": {"label": "yellow", "netvm": DEFAULT},
    "work": {"label": "blue", "netvm": DEFAULT},
    # Offline until there is a list of what it may reach (R11).
    "banking": {"label": "green", "netvm": DEFAULT, "needs_list": True, "maxmem": 2000},
    "comms": {"label": "purple", "netvm": TOR_OR_DEFAULT},
    "untrusted": {"label": "red", "netvm": TOR_OR_DEFAULT, "disposable_template": True},
}
_TOP = "qubes_vpn"


class LayoutQube(NamedTuple):
    """A qube of the user's, created when it is missing (R10).  Memory in megabytes.

    default_dispvm: in what it opens links and files; None leaves it to dom0.
    firewall: the firewall qube that nobody else hangs on, or None.
    gives: which of ``netvm``, ``vault`` and ``allowlist`` are said here, not in their own sections.
    """

    name: str
    template: str | None
    label: str
    memory: int | None
    maxmem: int | None
    disposable_template: bool
    default_dispvm: str | None
    firewall: str | None
    gives: frozenset


class Clients(NamedTuple):
    """What a pillar says of the user's qubes, wherever it says it.

    routes: client -> netvm or ``none``.  otherwise: client -> its netvm while the one in *routes*,
    Whonix' gateway, is not on the machine.  firewalls: those that qubes of the layout have of their
    own, name -> upstream.
    """

    qubes: dict
    routes: dict
    otherwise: dict
    vaults: tuple
    allowlists: dict
    firewalls: dict


class Layout(MapOf):
    """A mapping of qubes, or ``canonical``; of a preset's name no key is required."""

    def read(self, value, path, problems):
        if value == CANONICAL:
            value = dict.fromkeys(PRESETS)
        elif not isinstance(value, dict):
            fix = f"Write '{CANONICAL}', or qubes, such as '{self.example}'."
            refuse(value, path, problems, f"{show(value)} is no layout", fix)
            return None
        kept = super().read(value, path, problems)
        for name, keys in kept.items():
            given = value[name] if isinstance(value.get(name), dict) else {}
            if name not in PRESETS and keys["label"] is None and "label" not in given:
                near = suggest(name, PRESETS)
                meant = f"{near} Else add it" if near.startswith("Did") else "Add it"
                fix = f"{meant}, as in pillar.example."
                problems.append(Problem((*path, name, "label"), "missing", fix))
        return kept


def clients(values, head):
    """The :class:`Clients` of a pillar's *values*, and problems of how they fit.

    head: the netvm at the clients' end of the topology, or ``keep`` where it has none.
    """
    problems = []
    way = values["routes"]["default"]
    way = head if way in (None, "none", "keep") else way
    routes, allowlists = dict(values["routes"]["qubes"]), dict(values["allowlists"])
    found = Clients({}, routes, {}, [*values["vaults"]], allowlists, {})
    for name, keys in values["layout"].items():
        if wrong := [*_said_twice(values, name, keys)] or _at_odds(values, name, keys):
            problems += wrong
            keys = {**keys, "firewall": None, "netvm": "none"}  # nothing follows from it
        gives = set() if keys["allowlist"] is None else {"allowlist"}
        if gives:
            allowlists.setdefault(name, keys["allowlist"])
        if name not in found.vaults and _is_vault(name, keys):
            found.vaults.append(name)
            gives.add("vault")
        netvm = _netvm(found, name, keys)
        if netvm in (DEFAULT, TOR_OR_DEFAULT) and way == "keep":
            problems.append(_no_way(values, name))
            netvm = "none"
        if netvm and name not in routes:
            gives.add("netvm")
            _route(found, name, netvm, way, values["whonix_gateway"], keys["firewall"])
        found.qubes[name] = _qube(name, keys, frozenset(gives))
    return found._replace(vaults=tuple(found.vaults)), problems


def _netvm(found, name, keys):
    """The netvm of a qube as a word or a name; None where it is not for the layout to say."""
    if name in found.routes:
        return None
    preset = PRESETS.get(name, {})
    if not keys["netvm"] and preset.get("needs_list") and name not in found.allowlists:
        return "none"
    given = None if name in found.vaults else preset.get("netvm")
    return keys["netvm"] or given or (DEFAULT if keys["firewall"] else None)


def _route(found, name, netvm, way, gateway, firewall):
    """way: where DEFAULT leads.  firewall: the name of one of its own, or None."""
    if netvm == TOR_OR_DEFAULT and gateway != way:
        found.otherwise[name] = way
    netvm = {DEFAULT: way, TOR_OR_DEFAULT: gateway}.get(netvm, netvm)
    if firewall:
        found.firewalls[firewall], netvm = netvm, firewall
    found.routes[name] = netvm


def _qube(name, keys, gives):
    """With the preset's values where the pillar has none."""
    preset = PRESETS.get(name, {})
    if keys["memory"]:  # more than the preset's maxmem may be meant
        preset = {key: value for key, value in preset.items() if key != "maxmem"}
    filled = {key: preset.get(key) if value is None else value for key, value in keys.items()}
    filled["disposable_template"] = bool(filled["disposable_template"])
    of_it = {key: value for key, value in filled.items() if key in LayoutQube._fields}
    return LayoutQube(name=name, gives=gives, **of_it)


def _is_vault(name, keys):
    """A netvm alone makes a preset's vault no other qube: a slip would put it online (R09)."""
    if keys["vault"] is not None:
        return keys["vault"]
    return PRESETS.get(name, {}).get("vault", False)


def _said_twice(values, name, keys):
    """One place for one thing, even where both say the same."""
    at = (_TOP, "layout", name)
    for key, section, there in (
        ("netvm", "routes.qubes", values["routes"]["qubes"]),
        ("vault", "vaults", values["vaults"]),
        ("allowlist", "allowlists", values["allowlists"]),
    ):
        if keys[key] is not None and name in there:
            what = f"{_TOP}.{section} says it of '{name}' too"
            yield Problem((*at, key), what, "Remove one of the two.")
    if keys["firewall"] and name in values["routes"]["qubes"]:
        what = f"{_TOP}.routes.qubes gives '{name}' another netvm"
        fix = f"Remove one of the two; what the firewall qube hangs on is layout.{name}.netvm."
        yield Problem((*at, "firewall"), what, fix)


def _at_odds(values, name, keys):
    at, listed = (_TOP, "layout", name), name in values["allowlists"]
    vault = _is_vault(name, keys) or name in values["vaults"]
    if vault and keys["netvm"] not in (None, "none"):
        fix = "Remove it, or the vault."
        if keys["vault"] is None and name not in values["vaults"]:
            fix = f"Remove it, or write layout.{name}.vault: false."
        return [Problem((*at, "netvm"), "a vault has no netvm", fix)]
    if not keys["firewall"]:
        return []
    path = (*at, "firewall")
    if vault or keys["netvm"] == "none":
        return [Problem(path, f"'{name}' is offline", "Remove it, or give the qube a netvm.")]
    if keys["allowlist"] is None and not listed:
        what = f"'{name}' has no list that it would enforce"
        return [Problem(path, what, f"Add layout.{name}.allowlist, or remove it.")]
    if (keys["netvm"] or PRESETS.get(name, {}).get("netvm")) == TOR_OR_DEFAULT:
        what = "what it hangs on would depend on the machine"
        return [Problem(path, what, f"Write layout.{name}.netvm: {DEFAULT}, or a name.")]
    return []


def _no_way(values, name):
    what = f"topology '{values['topology']}' and routes.default name no netvm for '{name}'"
    fix = "Name one here, or routes.default; or write 'none'."
    return Problem((_TOP, "layout", name, "netvm"), what, fix)


def firewall_names(values):
    """``(path, name)`` of each firewall qube that a qube of the layout has of its own."""
    for name, keys in values["layout"].items():
        if keys["firewall"]:
            yield (_TOP, "layout", name, "firewall"), keys["firewall"]


def no_vault(model, name):
    """What to write of a vault that is to be none."""
    if name in model.layout and "vault" in model.layout[name].gives:
        return f"write layout.{name}.vault: false"
    return "take it out of vaults"


def place(model, key, name):
    """The path in the pillar of what it says of the qube *name*: its netvm or its allowlist."""
    if name in model.layout and key in model.layout[name].gives:
        return (_TOP, "layout", name, key)
    return (_TOP, "routes", "qubes", name) if key == "netvm" else (_TOP, "allowlists", name)


def waits(model, name):
    """Whether a qube is offline because nothing says yet what it may reach."""
    if name not in model.layout or "netvm" not in model.layout[name].gives:
        return False
    return lacks_list(model, name) and model.routes[name] == "none"


def lacks_list(model, name):
    """Whether a qube that is for one purpose has no list of what it may reach."""
    return PRESETS.get(name, {}).get("needs_list", False) and name not in model.allowlists
