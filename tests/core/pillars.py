# SPDX-License-Identifier: GPL-2.0-or-later
"""Pillars for the tests of the core: small ones, and the one that users start from."""

from pathlib import Path

import yaml

_TOP = Path(__file__).resolve().parents[2]
#: The value of `qubes_vpn` in pillar.example.
EXAMPLE = yaml.safe_load((_TOP / "pillar.example").read_text(encoding="utf-8"))["qubes_vpn"]


def tunnel(**keys):
    """A tunnel as a pillar has it, WireGuard unless *keys* say otherwise."""
    return {
        "kind": "wireguard",
        "profile": "wg0.conf",
        "endpoints": ["203.0.113.7:51820/udp"],
        **keys,
    }


def pillar(**keys):
    """The smallest pillar, with *keys* added or replaced."""
    return {"tunnels": {"sys-vpn": tunnel()}, **keys}


def past_vpn(**keys):
    """A pillar with a second path, past the VPN (R05): sys-firewall-novpn."""
    firewalls = {"sys-firewall": {}, "sys-firewall-novpn": {"upstream": "sys-net"}}
    return pillar(firewalls=firewalls, **keys)
