# SPDX-License-Identifier: GPL-2.0-or-later
"""Who is in clear, by what the qubes really are: nothing here asks the formula.

What is taken for true, and nothing else is:

1. An uplink sends what its clients send out as it is, whatever netvm it has.
2. A VPN or Tor that works (a shelter) lets nothing of its clients out but inside its tunnel, for as
   long as it keeps its template: with another template its program may be gone.
3. A VPN qube that a pillar describes has nothing in it yet that closes it.  It is a shelter as long
   as its firewall list lets through endpoints only, and its netvm enforces lists.  That clients
   reach the endpoints themselves in clear is left to the killswitch inside.
4. A netvm enforces lists by feature `qubes-firewall`, its own or its template's, unless its service
   of that name is off.
5. Every other qube that provides network passes on what it gets.
6. Halted qubes count as running ones, because they can be started at any moment; and a qube stands
   for the disposables that are made from it.
7. A netvm that lost `provides_network` passes on nothing (R4.3 attaches no client to it), or, in
   other worlds, still everything (R4.2, and a qube that has not been restarted since).
8. What a pillar calls a service qube is no uplink, what it calls its Whonix is one, and what it
   calls a resolver or a firewall is no VPN, unless an earlier pillar's run made it one.
9. A VPN qube of an earlier pillar stays one for as long as it has the flag of one: a run that ended
   before it had that has made none.
"""

import copy
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Truth:
    """What the qubes of a machine really are, by name; the formula is not told.

    shelters: VPNs and Tor, with the template that they work with.
    tunnels: VPN qubes of the pillars so far.  endpoints: rules that let through their endpoints.
    """

    uplinks: frozenset
    shelters: dict
    flag_matters: bool
    tunnels: set = field(default_factory=set)
    endpoints: frozenset = frozenset()


def netvms(state):
    """Every qube's and template's netvm: ``{name: name or None}``."""
    default = state["globals"].get("default_netvm")
    return {
        name: qube["properties"].get("netvm", None if _is_template(state, name) else default)
        for name, qube in state["qubes"].items()
        if qube["klass"] != "AdminVM"
    }


def rules(state, name):
    """A qube's firewall list, as lines."""
    found = state["qubes"][name]["rules"]
    return ["action=accept"] if found is None else found


def providers(state):
    """Names of the qubes that provide network."""
    qubes = state["qubes"].items()
    return {name for name, qube in qubes if qube["properties"].get("provides_network")}


def offline_by_choice(state):
    """Names of the qubes that have no netvm and do not inherit that; templates never have one."""
    return {
        name
        for name, netvm in netvms(state).items()
        if netvm is None
        and ("netvm" in state["qubes"][name]["properties"] or _is_template(state, name))
    }


def everything(state):
    """What a user can see of a machine, to compare it with later."""
    qubes = {
        name: {key: copy.copy(qube[key]) for key in ("properties", "features", "rules", "power")}
        for name, qube in state["qubes"].items()
        if name != "dom0"
    }
    return {"globals": dict(state["globals"]), **qubes}


def limited_to(lines, allowed):
    """Whether a firewall list lets through nothing else than the rules in *allowed*."""
    return all(line in allowed for line in lines if not line.startswith("action=drop"))


def described(state, truth, tunnels):
    """The next pillar has these *tunnels*."""
    flagged = {
        name
        for name in truth.tunnels & state["qubes"].keys()
        if state["qubes"][name]["features"].get("service.qubes-vpn")
    }
    truth.tunnels.intersection_update(flagged)
    truth.tunnels.update(tunnels)


def in_clear(state, truth, behind=()):
    """Names of the qubes and templates whose packets may reach the net outside every tunnel.

    behind: shelters that are to be behind another one, so their own packets count, too.
    """
    wiring = netvms(state)
    closed = {name for name in wiring if _is_shelter(state, truth, wiring, name)}
    stops = closed | _cut(state, truth)
    everyone = wiring.keys() - (closed - {*behind}) - truth.uplinks
    return {name for name in everyone if _reaches_uplink(truth, wiring, stops, name)}


def passing(state, truth):
    """Which shelters each qube's packets pass, itself not counted: ``{name: set or None}``.

    None: it is offline.
    """
    wiring, stops = netvms(state), _cut(state, truth)
    shelters = {name for name in wiring if _is_shelter(state, truth, wiring, name)}
    return {
        name: _names(truth, wiring, name) & shelters
        if _reaches_uplink(truth, wiring, stops, name)
        else None
        for name in wiring
    }


def _names(truth, wiring, name):
    """Who is between *name* and the uplink that it reaches."""
    found = set()
    while (name := wiring[name]) not in truth.uplinks:
        found.add(name)
    return found


def online(state, truth):
    """Names of the qubes and templates that have a way to an uplink, be it through a tunnel."""
    wiring, stops = netvms(state), _cut(state, truth)
    return {name for name in wiring if _reaches_uplink(truth, wiring, stops, name)}


def _is_template(state, name):
    return state["qubes"][name]["klass"] == "TemplateVM"


def _cut(state, truth):
    """Qubes that pass on nothing."""
    return state["qubes"].keys() - providers(state) if truth.flag_matters else set()


def _reaches_uplink(truth, wiring, stops, name):
    seen = set()
    while name not in seen:
        seen.add(name)
        name = wiring.get(name)
        if name is None or name in stops:
            return False
        if name in truth.uplinks:
            return True
    return False


def _is_shelter(state, truth, wiring, name):
    if name in truth.shelters:
        template = state["qubes"][name]["properties"].get("template")
        if template == truth.shelters[name]:
            return True
    if name not in truth.tunnels:
        return False
    netvm = wiring[name]
    limited = limited_to(rules(state, name), truth.endpoints)
    return limited and (netvm is None or _enforces(state, netvm))


def _enforces(state, name):
    qube = state["qubes"][name]
    if qube["features"].get("service.qubes-firewall") == "":
        return False
    if (found := qube["features"].get("qubes-firewall")) is not None:
        return bool(found)
    template = qube["properties"].get("template")  # of a disposable: it has one too
    return template in state["qubes"] and _enforces(state, template)
