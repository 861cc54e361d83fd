# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines and pillars that `test_order` found somebody let out on, at their smallest."""

import pytest
from core.machines import GATEWAY, UPLINK

from . import oracle
from .runs import Part, steps
from .switching import document
from .test_order import nobody_is_let_out, watched
from .worlds import Drawn, world

_TUNNEL = {"kind": "openvpn", "profile": "a.ovpn", "endpoints": ["203.0.113.7:443/tcp"]}


def drawn(natures, netvms, others=(), default=None, unfiltered=()):
    """A machine of which nothing else is said."""
    return Drawn(
        release="4.2",
        natures={UPLINK: "uplink", **natures},
        templates={},
        others=tuple(others),
        default=default,
        netvms=netvms,
        power={},
        rules={},
        unfiltered=tuple(unfiltered),
        reset=(),
        flag_matters=False,
    )


def custom(tunnels, firewalls=None, routes=None):
    """A pillar of these upstreams."""
    return document(
        "custom",
        tunnels={name: {**_TUNNEL, "upstream": netvm} for name, netvm in tunnels.items()},
        firewalls={name: {"upstream": netvm} for name, netvm in (firewalls or {}).items()},
        routes={"qubes": {}, **(routes or {})},
        vaults=[],
    )


#: What is called sys-vpn is none yet when the way behind it gets to Tor.
NO_TUNNEL_YET = (
    drawn(
        {"sys-firewall": "proxy", "sys-vpn": "proxy", GATEWAY: "vpn"},
        {GATEWAY: UPLINK, "sys-firewall": None, "sys-vpn": "sys-firewall", "work": "sys-vpn"},
        ["work"],
    ),
    custom({"sys-vpn": "sys-firewall"}, {"sys-firewall": GATEWAY}, {"qubes": {"work": "sys-vpn"}}),
)
#: Somebody's own VPN gets our template, and nobody enforces its list where it hangs.
OWN_VPN = (
    drawn(
        {"vpn-old": "vpn", "sys-vpn": "vpn"},
        {"vpn-old": UPLINK, "sys-vpn": "vpn-old", "work": "sys-vpn"},
        ["work"],
        unfiltered=["vpn-old"],
    ),
    custom({"sys-vpn": UPLINK}),
)
#: Until default_netvm has its turn, who inherits it hangs on a client of the entry alone.
HEIRS_OF_A_CLIENT = (
    drawn({}, {"work": None}, ["work"], default="work"),
    custom(
        {"sys-vpn-2": UPLINK, "sys-vpn": "sys-vpn-2"},
        routes={"qubes": {"work": "sys-vpn-2"}, "default": "sys-vpn"},
    ),
)
#: There is no Whonix, so it hangs on the other tunnel in the end.
NO_TOR = (
    drawn({"sys-firewall": "proxy"}, {"sys-firewall": None, "comms": "sys-firewall"}, ["comms"]),
    {
        **custom(
            {"sys-vpn": UPLINK, "sys-vpn-3": UPLINK},
            {"sys-firewall": "sys-vpn"},
            {"default": "sys-vpn-3"},
        ),
        "layout": {"comms": {}},
    },
)


@pytest.mark.parametrize("case", [NO_TUNNEL_YET, OWN_VPN, HEIRS_OF_A_CLIENT, NO_TOR])
def test_nobody_is_let_out(case):
    """R12, R88, R92. And the run gets through: whoever was taken off is brought back."""
    machine, pillar = case
    nobody_is_let_out((machine, [Part(pillar, "plan")]))
    made = world(machine)
    oracle.described(made.qubes.state, made.truth, pillar["tunnels"])
    done = watched(made, Part(pillar, "plan"), steps(Part(pillar, "plan")))
    assert done[-1].refused is None
    before = oracle.online(world(machine).qubes.state, made.truth)
    assert before <= oracle.online(made.qubes.state, made.truth)
