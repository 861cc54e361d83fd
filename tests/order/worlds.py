# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines of any wiring, with what their qubes really are."""

import contextlib
import copy
import functools
from typing import NamedTuple

from core.machines import (
    BYSTANDERS,
    CLIENTS,
    GATEWAY,
    RESOLVERS,
    TUNNELS,
    UPLINK,
    VAULTS,
    where_tor_is,
)
from hypothesis import strategies as st

from qubes_vpn_formula.embedded.qubesd import AdminError, EmptyAnswer
from qubes_vpn_formula.embedded.qubesd.initial import state as initial_state

from .memory import MemoryQubes
from .oracle import Truth
from .runs import ENDPOINTS
from .written import design, layout, meaning

#: netvms that no pillar knows, and what each really is
STRANGERS = {"vpn-old": "vpn", "usb-modem": "uplink", "proxy": "proxy", "fw-mine": "proxy"}
#: netvms that pillars name too: what a former version left, or the user's own of that name
NAMED = {
    "sys-firewall": ("proxy",),
    "sys-firewall-2": ("proxy",),
    **dict.fromkeys(RESOLVERS, ("proxy",)),
    **dict.fromkeys(TUNNELS, ("proxy", "vpn")),
    GATEWAY: ("vpn",),
}
#: qubes that carry nobody, by class
_OTHERS = {
    **dict.fromkeys([*CLIENTS, *VAULTS, *BYSTANDERS, "comms", "untrusted"], "AppVM"),
    "dvm": "AppVM",
    "disposable": "DispVM",
    "alone": "StandaloneVM",
}
#: templates that a former version left, and what its service qubes may be based on
_OURS = ("t-vpn", "t-dns")
_FORMER = {
    **dict.fromkeys(RESOLVERS, ("t-dns", "fedora-42-xfce")),
    **dict.fromkeys(TUNNELS, ("t-vpn", "fedora-42-xfce")),
}
_TEMPLATES = ("debian-13-xfce", "debian-13-minimal", "fedora-42-xfce")
#: of every qube that says nothing else
_TEMPLATE = "fedora-42-xfce"
_ANY, _NONE = "action=accept", "action=drop"
_LISTS = (
    [],
    [_NONE],
    [_ANY],
    ["action=accept dst4=203.0.113.7/32 proto=udp dstports=51820-51820", _NONE],
    ["action=accept dst4=203.0.113.99/32", _NONE],
)
#: draws "inherits the default"
_HEIR = "(default)"


class World(NamedTuple):
    """A starting state: a machine, and the truth about it."""

    qubes: MemoryQubes
    truth: Truth


class Drawn(NamedTuple):
    """A starting state as Hypothesis shows it.

    netvms: in the order in which they were set; one that would be a loop is left out.
    natures: what each netvm really is: uplink, vpn or proxy.  power: qubes that are not halted.
    """

    release: str
    natures: dict
    templates: dict
    others: tuple
    default: str | None
    netvms: dict
    power: dict
    rules: dict
    unfiltered: tuple
    reset: tuple
    flag_matters: bool


@st.composite
def drawn(draw, documents):
    """Any starting state of a machine for these pillars."""
    named = draw(st.lists(st.sampled_from(sorted(NAMED)), unique=True, max_size=4))
    strange = draw(st.lists(st.sampled_from(sorted(STRANGERS)), unique=True, max_size=3))
    natures = {UPLINK: "uplink", "sys-firewall": "proxy"}
    plain = {name for each in documents for name in (*each["resolvers"], *each["firewalls"])}
    natures |= {
        name: "proxy" if name in plain else draw(st.sampled_from(NAMED[name])) for name in named
    }
    if draw(st.integers(0, 9)) if any(map(_needs_tor, documents)) else draw(st.booleans()):
        natures[GATEWAY] = "vpn"
    natures |= {name: STRANGERS[name] for name in strange}
    netvms = {}
    what = draw(st.sampled_from(["any", "any", "modem", "guide"]))
    if what == "modem":  # what the pillar calls the uplink is a proxy in front of it
        natures |= {UPLINK: "proxy", "usb-modem": "uplink"}
        netvms = {UPLINK: "usb-modem"}
    elif what == "guide":  # a VPN that somebody set up before
        natures["vpn-old"] = "vpn"
        netvms = {"vpn-old": UPLINK, "sys-firewall": "vpn-old"}
    others = draw(st.lists(st.sampled_from(sorted(_OTHERS)), unique=True, min_size=1, max_size=6))
    if draw(st.integers(0, 9)):  # a route of a qube that is not there ends a run
        parts = [part for each in documents for part in (each["routes"]["qubes"], each["vaults"])]
        routed = {name for part in parts for name in part}
        others += sorted(routed & _OTHERS.keys() - {*others})
    default = draw(st.sampled_from(["sys-firewall", None, *natures, others[0]]))
    ways = st.sampled_from([_HEIR, None, *natures])
    carriers = [name for name in natures if natures[name] != "uplink"]
    netvms |= {name: draw(ways) for name in draw(st.permutations(carriers)) if name not in netvms}
    netvms |= {name: draw(ways) for name in [*others, draw(st.sampled_from(_TEMPLATES))]}
    everyone = [*natures, *others]
    few = st.lists(st.sampled_from(list(natures)), unique=True, max_size=2).map(tuple)
    states = st.sampled_from(["Running", "Paused"])
    release = draw(st.sampled_from(["4.3", "4.2"]))
    return Drawn(
        release=release,
        natures=natures,
        templates={
            name: draw(st.sampled_from(_FORMER[name])) for name in natures if name in _FORMER
        },
        others=tuple(others),
        default=default,
        netvms=netvms,
        power=draw(st.dictionaries(st.sampled_from(everyone), states, max_size=4)),
        rules=draw(st.dictionaries(st.sampled_from(everyone), st.sampled_from(_LISTS), max_size=3)),
        unfiltered=draw(st.just(()) | few),
        reset=draw(st.just(()) | few),
        flag_matters=release == "4.3" and draw(st.booleans()),
    )


@st.composite
def plain(draw, document):
    """A machine as Qubes installs it, with every qube that the pillar asks for."""
    tor = _needs_tor(document) or draw(st.booleans())
    document = meaning(document, tor)
    natures = {UPLINK: "uplink", "sys-firewall": "proxy"} | ({GATEWAY: "vpn"} if tor else {})
    routed = {
        *document["routes"]["qubes"],
        *document["allowlists"],
        *BYSTANDERS,
        *document["vaults"],
    }
    made = {name for name in layout(document) if draw(st.booleans())}
    others = sorted(routed & _OTHERS.keys() - made)
    is_upstream = GATEWAY in design(document).values()
    gateway = UPLINK if is_upstream else draw(st.sampled_from([UPLINK, None]))
    ways = st.sampled_from([_HEIR, None, *natures])
    return Drawn(
        release=draw(st.sampled_from(["4.3", "4.2"])),
        natures=natures,
        templates={},
        others=tuple(others),
        default=draw(st.sampled_from(["sys-firewall", None])),
        netvms={"sys-firewall": UPLINK, GATEWAY: gateway, **{name: draw(ways) for name in others}},
        power=draw(st.dictionaries(st.sampled_from([*natures, *others]), st.just("Running"))),
        rules={},
        unfiltered=(),
        reset=(),
        flag_matters=False,
    )


def world(drawn):
    """The machine that *drawn* describes, through calls that qubesd lets pass."""
    qubes = MemoryQubes(drawn.release, copy.deepcopy(_base(drawn.release)))

    def call(dest, method, arg="", payload=""):
        with contextlib.suppress(AdminError, EmptyAnswer):
            qubes.call(dest, method, arg, payload.encode())

    _make(call, drawn)
    _wire(call, drawn)
    for name, lines in drawn.rules.items():
        call(name, "admin.vm.firewall.Set", "", "".join(f"{line}\n" for line in lines))
    for name in drawn.unfiltered:
        call(name, "admin.vm.feature.Set", "service.qubes-firewall")
    for name in drawn.power:
        call(name, "admin.vm.Start")
    for name in (name for name, power in drawn.power.items() if power == "Paused"):
        call(name, "admin.vm.Pause")
    kept = {drawn.netvms.get(name) for name in _TEMPLATES}  # what such templates have breaks clones
    for name in (name for name in drawn.reset if name not in kept):
        call(name, "admin.vm.property.Reset", "provides_network")
    truth = Truth(
        endpoints=frozenset(ENDPOINTS.values()),
        uplinks=frozenset(name for name, what in drawn.natures.items() if what == "uplink"),
        shelters={
            name: drawn.templates.get(name, _TEMPLATE)
            for name, what in drawn.natures.items()
            if what == "vpn"
        },
        flag_matters=drawn.flag_matters,
    )
    return World(qubes, truth)


def _make(call, drawn):
    """Every qube, and none of them connected."""
    for name in {*drawn.templates.values()} & {*_OURS}:
        call("dom0", "admin.vm.Create.TemplateVM", "", f"name={name} label=black")
        call(name, "admin.vm.feature.Set", "qubes-firewall", "1")
    for name in [*drawn.natures, *drawn.others]:
        klass = _OTHERS.get(name, "AppVM")
        template = {"DispVM": "default-dvm", "StandaloneVM": ""}.get(klass)
        if template is None:
            template = drawn.templates.get(name, _TEMPLATE)
        call("dom0", f"admin.vm.Create.{klass}", template, f"name={name} label=red")
        if name in drawn.natures:
            call(name, "admin.vm.property.Set", "provides_network", "True")
        call(name, "admin.vm.property.Set", "netvm", "")
    call("dvm", "admin.vm.property.Set", "template_for_dispvms", "True")


def _wire(call, drawn):
    """Chosen netvms first: default_netvm would be a loop for many who inherit it meanwhile."""
    for name, netvm in drawn.netvms.items():
        if netvm != _HEIR:
            call(name, "admin.vm.property.Set", "netvm", netvm or "")
    call("dom0", "admin.property.Set", "default_netvm", drawn.default or "")
    for name, netvm in drawn.netvms.items():
        if netvm == _HEIR:
            call(name, "admin.vm.property.Reset", "netvm")


def _needs_tor(document):
    """Whether the pillar needs Whonix' gateway to be there."""
    routes, wiring = document["routes"], design(document)
    netvms = [*wiring, *wiring.values(), *routes["qubes"].values(), routes.get("default")]
    keys = layout(document).values()
    return (
        where_tor_is(document) != "unmanaged"
        or GATEWAY in netvms
        or any(each.get("netvm") == GATEWAY for each in keys)
    )


@functools.cache
def _base(release):
    """A machine with the qubes that are always there, everybody else's name free."""
    state = initial_state(release)
    for name in ("personal", "work", "untrusted", "vault", "sys-firewall", "sys-net"):
        del state["qubes"][name]
    state["globals"].update(default_netvm=None, updatevm=None, clockvm=None)
    return state
