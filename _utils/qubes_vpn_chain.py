# SPDX-License-Identifier: GPL-2.0-or-later
"""Who has which place in a ready-made topology, and whether the pillar says otherwise.

A place belongs to the qube that leaves its upstream to the topology, or says the same.  Where a
role has several places, the one next to the uplink says so by its `upstream`, or has the default
name; the order of a pillar's keys says nothing.
"""

from typing import NamedTuple

from qubes_vpn_problem import Problem
from qubes_vpn_schema import TOPOLOGIES, TOR

_TOP = "qubes_vpn"
_CUSTOM = "or write 'topology: custom'"


class _Place(NamedTuple):
    """A place in the ready-made *topology*: its *number* counts from the clients' side.

    upstream: the name in the place after it, None where there is nobody.  uplink: the pillar's.
    """

    topology: str
    number: int
    upstream: str | None
    uplink: str

    @property
    def role(self):
        return self.roles()[self.number]

    @property
    def default(self):
        """The name of whoever has it, if the pillar does not say otherwise; or None."""
        return TOPOLOGIES[self.topology].chain[self.number][1]

    def roles(self):
        """Of all places of the topology."""
        return [role for role, _ in TOPOLOGIES[self.topology].chain]

    def left(self):
        """How many places of this role are not taken yet."""
        return self.roles()[: self.number + 1].count(self.role)

    def before(self):
        """The role of whoever hangs on it; None: clients do."""
        return self.roles()[self.number - 1] if self.number else None

    def others(self):
        """Names that belong to other places."""
        topology = TOPOLOGIES[self.topology]
        return {*topology.beside, *(name for _, name in topology.chain)} - {self.default}


def place(values, services, problems):
    """Gives *services* the upstreams that the topology has for them.

    values: the pillar's.  Returns ``(chain, netvm)``: the names from the clients' side to the
    uplink's, None where there is nobody, and what Whonix' gateway hangs on by this topology.
    """
    topology = TOPOLOGIES[values["topology"]]
    upstream, chain, netvm, said = values["uplink"], [], None, set()
    for number in reversed(range(len(topology.chain))):
        here = _Place(values["topology"], number, upstream, values["uplink"])
        if here.role == TOR:
            name, netvm = values["whonix_gateway"], upstream
        else:
            name, wrong = _member(here, services, chain)
            if name:
                _hang(services, name, upstream)
            elif wrong and here.role not in said:
                problems.append(Problem((_TOP, "topology"), *wrong))
            if not name:
                said.add(here.role)
        chain.insert(0, name)
        upstream = name
    for default in topology.beside:
        _beside(default, services, chain, values, problems)
    return chain, chain[0] if topology.tor_beside else netvm


def with_gateway(model):
    """*model*, in which it is said what Whonix' gateway hangs on, and what that is called (R08)."""
    if TOPOLOGIES[model.topology].has_tor():
        if model.gateway_netvm is None:
            return model
        whonix = "direct" if model.in_clear(model.gateway_netvm) else "behind_vpn"
        return model._replace(whonix=whonix)
    if model.whonix == "behind_vpn":
        netvm = None if model.default == "keep" else model.default
        return model._replace(gateway_netvm=netvm)
    if model.whonix == "direct":
        clear = clear_firewalls(model)
        return model._replace(gateway_netvm=clear[0] if len(clear) == 1 else None)
    return model


def clear_firewalls(model):
    """Firewalls that lead clients out in clear (R05), by name; none that a service is behind."""
    upstreams = {service.upstream for service in model.services.values()}
    return [
        name
        for name, service in model.services.items()
        if service.role == "firewall" and name not in upstreams and model.in_clear(name)
    ]


def twice(values):
    """The key `whonix`, where the topology says the same or something else."""
    if values["whonix"] is None or not TOPOLOGIES[values["topology"]].has_tor():
        return []
    what = f"topology '{values['topology']}' says where {values['whonix_gateway']} is"
    return [Problem((_TOP, "whonix"), what, "Remove it, or choose another topology.")]


def broken(model):
    """Members of the chain whose way passes the next one by: it is another topology then."""
    for name, following in zip(model.chain, model.chain[1:], strict=False):
        if name in model.services and following not in model.path(name):
            service = model.services[name]
            what = f"topology '{model.topology}' has {name} behind {following}"
            path = (_TOP, f"{service.role}s", name, "upstream")
            yield Problem(path, what, f"Remove it, {_CUSTOM}.")


def _hang(services, name, upstream):
    if not services[name].upstream:
        services[name] = services[name]._replace(upstream=upstream)


def _member(here, services, taken):
    """``(name, wrong)``: who has the place *here*, or None and what is wrong, as :func:`_wrong`."""
    every = [
        service
        for service in services.values()
        if service.role == here.role and service.name not in taken and _may_hang(service, here)
    ]
    names = _candidates(here, services, every)
    if len(names) == 1:
        return names[0], None
    return None, _wrong(here, names, every)


def _may_hang(service, here):
    """Whether it is not said to be on the uplink, past what is *here*; of tunnels it may be."""
    on_uplink = service.upstream == here.uplink
    return service.role == "tunnel" or here.upstream == here.uplink or not on_uplink


def _candidates(here, services, every):
    """Names of those of *every* that say most clearly that the place is theirs."""
    open_ones = [each for each in every if not each.upstream and each.name not in here.others()]
    fitting = [each for each in every if each.upstream and each.upstream == here.upstream]
    by_name = [each for each in (*open_ones, *fitting) if each.name == here.default]
    used = [each.upstream for each in services.values() if each.role == here.before()]
    if here.left() > 1:
        named = [each for each in (*fitting, *open_ones) if each.name in used]
        turns = (by_name, named, fitting, open_ones)
    else:
        turns = (by_name, open_ones, fitting, every)
    names = next(([each.name for each in turn] for turn in turns if turn), [])
    if here.left() == 1 and len(names) > 1 and None not in used:
        meant = [name for name in names if name in used]  # by each that may hang on it
        return meant if len(meant) == 1 else names
    in_a_row = here.left() > 1 and here.before() == here.role
    if in_a_row and names and not services[names[0]].upstream:
        # Another one hangs on it, and these are on the uplink by their own word: who is behind?
        names += [each.name for each in fitting if each.name not in names]
    return names


def _wrong(here, names, every):
    """``(what, fix)`` where not one, but several or none have a place; None: reported elsewhere."""
    topology, role, places = f"topology '{here.topology}'", here.role, here.roles().count(here.role)
    if names and here.left() > 1:
        which = f"which of {', '.join(names)} is the {role} on {here.upstream} is not said"
        what = f"{topology} has {places} {role}s, and {which}"
        open_ones = [each.name for each in every if each.name in names and not each.upstream]
        if 0 < len(open_ones) < len(names):
            return what, f"Give {open_ones[0]} its 'upstream', too."
        return what, f"Name it as the 'upstream' of the {here.before()} that hangs on it."
    if names:
        what = f"{topology} has one {role}, and here are {len(every)}"
        if any(not each.upstream for each in every):
            return what, f"Give all but one an 'upstream', {_CUSTOM} and give it to all."
        return what, f"Remove the 'upstream' of the one that is meant, {_CUSTOM}."
    if role == "tunnel" and here.left() == places:
        return None  # a pillar without any tunnel has been reported already
    if places > 1:
        what = f"{topology} needs {places} {role}s in a row, and there is one too few"
        example = f"'{here.default}: {{}}'" if here.default else "one"
        return what, f"Add {example} under {role}s, {_CUSTOM}."
    behind = f" behind {here.upstream}" if here.upstream else ""
    what = f"{topology} needs a {role}{behind}, and there is none"
    return what, f"Add one under {role}s, {_CUSTOM}."


def _beside(default, services, chain, values, problems):
    """The firewall past the VPN."""
    uplink = values["uplink"]
    firewalls = [each for each in services.values() if each.role == "firewall"]
    firewalls = [each for each in firewalls if each.name not in chain]
    open_ones = [each.name for each in firewalls if not each.upstream]
    past = [each.name for each in firewalls if each.upstream == uplink]
    for names in ({default} & {*open_ones}, past[:1], open_ones):
        if len(names) == 1:
            _hang(services, *names, uplink)
            return
    what = f"topology '{values['topology']}' needs a firewall past the VPN, on {uplink}"
    fix = f"Add '{default}: {{upstream: {uplink}}}' under firewalls, {_CUSTOM}."
    problems.append(Problem((_TOP, "topology"), what, fix))
