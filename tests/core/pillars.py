# SPDX-License-Identifier: GPL-2.0-or-later
"""Small pillars for the tests of the core."""


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
