# SPDX-License-Identifier: GPL-2.0-or-later
"""Valid pillars of many shapes, and a machine of nothing but netvms to try their plans on."""

from dataclasses import dataclass, field

from hypothesis import strategies as st

UPLINK, GATEWAY = "sys-net", "sys-whonix"
TUNNELS = ("sys-vpn", "sys-vpn-2", "sys-vpn-3")
SHELTERS = (*TUNNELS, GATEWAY)
RESOLVERS = ("sys-dns", "sys-dns-2")
PLACES = ("sys-firewall-uplink", "sys-firewall-novpn", "sys-firewall-tor")  # by default
FIREWALLS = ("sys-firewall", "sys-firewall-2", "sys-firewall-3", *PLACES)
CLIENTS = ("work", "personal", "games", "banking")
VAULTS = ("vault", "keys")
BYSTANDERS = ("other", "older")

_ENDPOINTS = ("203.0.113.7:51820/udp", "198.51.100.0/24:443-500/udp", "[2001:db8::7]:51820/udp")
#: of a tunnel that Tor carries
_TCP = ("203.0.113.7:443/tcp", "[2001:db8::7]:443/tcp")
_ALLOWED = ("dns", "icmp", "203.0.113.9:443/tcp", "[2001:db8::/48]:443/tcp")


def way(name, upstreams):
    """Names from *name* to the end of *upstreams* (a mapping, without loops)."""
    names = [name]
    while upstreams.get(names[-1]) is not None:
        names.append(upstreams[names[-1]])
    return names


def is_clear(name, upstreams):
    """Whether *name* gets to the uplink past every tunnel and past Tor, itself included."""
    names = way(name, upstreams)
    return names[-1] == UPLINK and not any(here in SHELTERS for here in names)


def _subset(draw, names, least=0):
    return draw(st.lists(st.sampled_from(names), min_size=least, unique=True))


_DNS = {"sys-vpn": UPLINK, "sys-dns": "sys-vpn", "sys-firewall": "sys-dns"}
_NOVPN = {"sys-firewall-novpn": UPLINK}
#: What each topology wires by itself, Whonix' gateway included, and its end on the clients' side.
CHAINS = {
    "dns": (_DNS, "sys-firewall"),
    "simple": ({"sys-firewall": UPLINK, "sys-vpn": "sys-firewall"}, "sys-vpn"),
    "sandwich": (
        {**_DNS, "sys-vpn": "sys-firewall-uplink", "sys-firewall-uplink": UPLINK},
        "sys-firewall",
    ),
    "parallel": ({**_DNS, **_NOVPN}, "sys-firewall"),
    "multihop": ({**_DNS, "sys-vpn": "sys-vpn-2", "sys-vpn-2": UPLINK}, "sys-firewall"),
    "tor-over-vpn": (
        {"sys-vpn": UPLINK, "sys-firewall": "sys-vpn", GATEWAY: "sys-firewall"},
        GATEWAY,
    ),
    "vpn-over-tor": (
        {GATEWAY: UPLINK, "sys-firewall-tor": GATEWAY, "sys-vpn": "sys-firewall-tor"},
        "sys-vpn",
    ),
    "dns-tor-vpn": ({**_DNS, "sys-dns": GATEWAY, GATEWAY: "sys-vpn"}, "sys-firewall"),
    "mixed": ({**_DNS, **_NOVPN, GATEWAY: "sys-firewall"}, "sys-firewall"),
    "custom": ({}, "keep"),
}


def _wired(draw, chain):
    """A tree of service qubes: ``{name: upstream}``, names in any order."""
    names = _subset(draw, TUNNELS, not chain) + _subset(draw, RESOLVERS) + _subset(draw, FIREWALLS)
    upstreams = dict(chain)
    for name in draw(st.permutations([name for name in names if name not in chain])):
        tor = [] if name in TUNNELS else [GATEWAY]  # it would not hold a tunnel to its endpoints
        others = [each for each in upstreams if each != GATEWAY]
        upstreams[name] = draw(st.sampled_from([UPLINK, UPLINK, *tor, *others]))
    return upstreams


def _tor_first(name, upstreams):
    """Whether Tor is the first thing that hides what *name* sends."""
    return next((each == GATEWAY for each in way(name, upstreams)[1:] if each in SHELTERS), False)


@st.composite
def pillars(draw):
    """A valid pillar of any topology, whose service qubes hang together in any way."""
    topology = draw(st.sampled_from(["custom", *CHAINS]))
    chain, head = CHAINS[topology]
    upstreams = _wired(draw, chain)

    def wired(names):
        named = [name for name in names if name in upstreams]
        return {name: _upstream(name, chain, upstreams) for name in named}

    netvms = list(dict.fromkeys([UPLINK, GATEWAY, *upstreams]))
    closed = [name for name in netvms if not is_clear(name, upstreams)]
    routes = {name: draw(st.sampled_from(["none", *netvms])) for name in _subset(draw, CLIENTS)}
    default = draw(st.sampled_from([None, "none", "keep", *closed]))
    vaults = _subset(draw, VAULTS)
    services = [name for name in upstreams if name not in SHELTERS]
    listed = [*CLIENTS, GATEWAY, *services]
    listed = [name for name in listed if name in routes or name in upstreams]
    listed = [name for name in listed if GATEWAY not in (routes.get(name), upstreams.get(name))]
    document = {
        "topology": topology,
        "tunnels": {
            name: {
                "kind": "openvpn",
                "profile": "a.ovpn",
                "endpoints": _subset(draw, _TCP if _tor_first(name, upstreams) else _ENDPOINTS, 1),
                **upstream,
            }
            for name, upstream in wired(TUNNELS).items()
        },
        "resolvers": wired(RESOLVERS),
        "firewalls": wired(FIREWALLS),
        "routes": {"qubes": routes} | ({"default": default} if default else {}),
        "outside_vpn": [
            name for name, netvm in routes.items() if netvm != "none" and is_clear(netvm, upstreams)
        ],
        "vaults": vaults,
        "allowlists": {
            name: _subset(draw, _ALLOWED) for name in (_subset(draw, listed) if listed else ())
        },
        # A preset's name has a netvm of its own unless the pillar says so elsewhere.
        "layout": {
            name: {"label": "blue"} for name in _subset(draw, ("games", "keys", *routes, *vaults))
        },
        "whonix": draw(st.sampled_from(_whonix(default or head, upstreams))),
    }
    if GATEWAY in chain:
        del document["whonix"]
    return {key: document[key] for key in draw(st.permutations(list(document)))}


def where_tor_is(document):
    """What the key `whonix` says, or the topology instead of it."""
    chain, _ = CHAINS[document["topology"]]
    if GATEWAY not in chain:
        return document.get("whonix", "unmanaged")
    return "direct" if is_clear(chain[GATEWAY], chain) else "behind_vpn"


def _upstream(name, chain, upstreams):
    """What a service's keys say of its upstream: nothing that the topology says."""
    entry = chain.get("sys-vpn")
    past = [each for each in TUNNELS if upstreams.get(each) == UPLINK]
    behind = [each for each in TUNNELS if upstreams.get(each) == "sys-vpn"]
    said = entry in TUNNELS and (
        name == entry or (name == "sys-vpn" and (past != [entry] or behind))
    )
    return {"upstream": upstreams[name]} if said or name not in chain else {}


@st.composite
def with_other_roles(draw, document):
    """The pillar with its service qubes' names shuffled: a name's role is another one then.

    Those of a ready-made topology keep their names, for they have them from it.
    """
    fixed = CHAINS[document["topology"]][0]
    names = [name for name in (*TUNNELS, *RESOLVERS, *FIREWALLS) if name not in fixed]
    return _renamed(document, dict(zip(names, draw(st.permutations(names)), strict=True)))


def _renamed(value, names):
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


def _whonix(default, upstreams):
    """What `whonix` may say there."""
    words = ["unmanaged"]
    if default not in ("none", "keep") and GATEWAY not in way(default, upstreams):
        words.append("behind_vpn")
    past = set(FIREWALLS) & upstreams.keys() - set(upstreams.values())
    if sum(is_clear(name, upstreams) for name in past) == 1:
        words.append("direct")
    return words


@dataclass
class Machine:
    """Who hangs on whom.

    wiring: ``{qube: netvm or None}``.  heirs: qubes without a netvm of their own choice.
    providers: qubes that provide network.  ruled: qubes that have a firewall list of the plan's.
    """

    wiring: dict
    heirs: set
    default: str | None
    providers: set
    ruled: set = field(default_factory=set)

    def apply(self, step):
        """Does one step of a plan as dom0's states do; an AssertionError where they refuse."""
        name = step.args["name"]
        if step.args.get("optional") and name not in self.wiring:
            return
        if step.state == "present":
            self.wiring.setdefault(name, None)
        elif step.state == "firewall":
            self.ruled.add(self._there(name))
        elif step.state == "qube":
            if step.args["settings"].get("provides_network"):
                self.providers.add(self._there(name))
        elif step.state == "netvm":
            self.wiring[self._there(name)] = self._netvm(step.args["netvm"])
            self.heirs.discard(name)
        elif step.state == "default_netvm":
            self.default = self._netvm(name)
            self.wiring.update(dict.fromkeys(self.heirs, self.default))
        assert all(len(set(self._way(name))) == len(self._way(name)) for name in self.wiring)

    def _there(self, name):
        assert name in self.wiring, f"{name} is not there yet"
        return name

    def _netvm(self, name):
        assert name == "none" or name in self.providers, f"{name} provides no network yet"
        return None if name == "none" else name

    def _way(self, name):
        names = [name]
        while self.wiring[names[-1]] is not None and len(names) <= len(self.wiring):
            names.append(self.wiring[names[-1]])
        return names


@st.composite
def machines(draw, document):
    """A machine as Qubes installs it: online is in clear, by sys-firewall and sys-net."""
    parts = [document[role] for role in ("tunnels", "resolvers", "firewalls")]
    tor = {service.get("upstream") for part in parts for service in part.values()}
    before = [None, UPLINK, "sys-firewall", GATEWAY, "default"]
    there = [*CLIENTS, *VAULTS, *BYSTANDERS]
    if not draw(st.booleans()):  # the layout's qubes are still to be made
        there = [name for name in there if name not in document["layout"]]
    wiring = {name: draw(st.sampled_from(before)) for name in there}
    heirs = {name for name, netvm in wiring.items() if netvm == "default"}
    default = draw(st.sampled_from(["sys-firewall", None]))
    wiring.update(dict.fromkeys(heirs, default))
    gateway = UPLINK if GATEWAY in tor else draw(st.sampled_from([UPLINK, "sys-firewall", None]))
    wiring |= {UPLINK: None, "sys-firewall": UPLINK, GATEWAY: gateway}
    return Machine(wiring, heirs, default, {UPLINK, "sys-firewall", GATEWAY})
