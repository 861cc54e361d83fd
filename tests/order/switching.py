# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with every named topology in turn, the same qubes' names in all of them."""

import copy
import itertools

from core.machines import CHAINS, GATEWAY, UPLINK

from .memory import MemoryQubes
from .worlds import Drawn, World, world

#: The named topologies, and every way from one to another.
NAMED = [name for name in CHAINS if name != "custom"]
PAIRS = list(itertools.permutations(NAMED, 2))
_SERVICES = {"tunnel": "sys-vpn", "resolver": "sys-dns", "firewall": "sys-firewall"}
_TUNNEL = {
    "kind": "openvpn",
    "profile": "a.ovpn",
    "endpoints": ["203.0.113.7:443/tcp", "[2001:db8::7]:443/tcp"],
}


def document(topology, **more):
    """A pillar as somebody writes it who has used the others too."""
    chain, head = CHAINS[topology]
    tunnels = [name for name in chain if name.startswith("sys-vpn")]
    past = {"games": "sys-firewall-novpn"} if "sys-firewall-novpn" in chain else {}
    return {
        "topology": topology,
        "tunnels": {
            name: {**_TUNNEL, **({"upstream": UPLINK} if name == "sys-vpn-2" else {})}
            for name in tunnels
        },
        "resolvers": {name: {} for name in chain if name == "sys-dns"},
        "firewalls": {name: {} for name in chain if name.startswith("sys-firewall")},
        "routes": {"qubes": {"work": head, "banking": head, **({"games": head} | past)}},
        "outside_vpn": [*past],
        "vaults": ["vault"],
        "allowlists": {},
        "layout": {},
        **more,
    }


def machine(release="4.3"):
    """A machine as Qubes installs it with Whonix; some of its qubes run."""
    return world(
        Drawn(
            release=release,
            natures={UPLINK: "uplink", "sys-firewall": "proxy", GATEWAY: "vpn"},
            templates={},
            others=("work", "banking", "games", "vault", "other", "dvm", "disposable", "anon"),
            default="sys-firewall",
            netvms={
                "sys-firewall": UPLINK,
                GATEWAY: "sys-firewall",
                "anon": GATEWAY,
                "vault": None,
                **dict.fromkeys(("work", "banking", "games", "other", "dvm"), "(default)"),
            },
            power=dict.fromkeys((UPLINK, "sys-firewall", GATEWAY, "work", "anon"), "Running"),
            rules={},
            unfiltered=(),
            reset=(),
            flag_matters=False,
        )
    )


def like(qubes, truth):
    """The same machine again, of its own."""
    return World(MemoryQubes(qubes.release, copy.deepcopy(qubes.state)), copy.deepcopy(truth))
