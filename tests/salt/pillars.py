# SPDX-License-Identifier: GPL-2.0-or-later
"""The pillars that the tests run, each as small as what it shows lets it be."""

from typing import Any

WIREGUARD = {"kind": "wireguard", "profile": "wg.conf", "endpoints": ["192.0.2.1:51820/udp"]}
OPENVPN = {
    "kind": "openvpn",
    "profile": "se.ovpn",
    "endpoints": ["198.51.100.0/28:1194/udp", "[2001:db8::7]:443/tcp"],
}
#: what a plan promises of itself, as its states get it
PROMISE = {
    "uplink": "sys-net",
    "shelters": ["sys-vpn"],
    "services": ["sys-vpn", "sys-firewall"],
    "outside_vpn": [],
}
DISPOSABLE = {"topology": "simple", "tunnels": {"sys-vpn": {**WIREGUARD, "disposable": True}}}
MULLVAD = {"kind": "mullvad", "endpoints": ["203.0.113.4:51820/udp"]}

PILLARS: dict[str, dict[str, Any]] = {
    # clients -> sys-firewall -> sys-dns -> sys-vpn -> sys-net (R03)
    "dns": {
        "tunnels": {"sys-vpn": WIREGUARD},
        "routes": {"qubes": {"personal": "sys-firewall", "work": "sys-firewall"}},
        "vaults": ["vault"],
    },
    # clients -> sys-vpn -> sys-firewall -> sys-net (R02)
    "simple": {
        "topology": "simple",
        "tunnels": {"sys-vpn": WIREGUARD},
        "routes": {"qubes": {"personal": "sys-vpn", "work": "sys-vpn"}},
    },
    # two tunnels side by side, and a path past both (R05, R06)
    "custom": {
        "topology": "custom",
        "tunnels": {
            "sys-vpn": {**WIREGUARD, "upstream": "sys-net"},
            "sys-vpn-two": {**OPENVPN, "upstream": "sys-net", "label": "purple", "maxmem": 800},
        },
        "firewalls": {
            "sys-firewall": {"upstream": "sys-vpn"},
            "sys-firewall-two": {"upstream": "sys-vpn-two"},
            "sys-firewall-novpn": {"upstream": "sys-net"},
        },
        "routes": {
            "default": "sys-firewall",
            "qubes": {
                "personal": "sys-firewall",
                "work": "sys-firewall-two",
                "untrusted": "sys-firewall-novpn",
            },
        },
        "outside_vpn": ["untrusted"],
        "allowlists": {"work": ["mail.example:993/tcp", "dns"]},
    },
    # Tor inside the VPN (R08)
    "whonix": {
        "tunnels": {"sys-vpn": WIREGUARD},
        "whonix": "behind_vpn",
        "routes": {"qubes": {"untrusted": "sys-whonix"}},
    },
    # Mullvad's app in the tunnel; tunnel behind tunnel (R30, R88)
    "mullvad": {
        "topology": "custom",
        "templates": {"t-mullvad": {"clone_of": "fedora-42-minimal"}},
        "tunnels": {
            "sys-vpn": {**MULLVAD, "upstream": "sys-net", "template": "t-mullvad"},
            "sys-vpn-inner": {**WIREGUARD, "upstream": "sys-vpn", "autostart": False},
        },
        "routes": {"default": "sys-vpn-inner"},
    },
}

# the user's own qubes (R09, R10, R11)
LAYOUT: dict[str, Any] = {
    **PILLARS["dns"],
    "routes": {"qubes": {"banking": "sys-firewall", "work": "sys-firewall"}},
    "vaults": ["vault", "papers"],
    "allowlists": {"banking": ["bank.example:443/tcp", "dns"]},
    "layout": {
        "banking": {"template": "debian-13-xfce", "label": "green", "memory": 500},
        "papers": {"label": "black"},
        "chats": {"label": "blue", "disposable_template": True},
        "work": {"label": "gray", "memory": 900},
    },
}

# the canonical ones, banking with its bank and a firewall qube of its own (R10, R11)
CANONICAL: dict[str, Any] = {
    "tunnels": {"sys-vpn": WIREGUARD},
    "layout": {
        **{name: {} for name in ("vault", "personal", "work", "comms", "untrusted")},
        "banking": {"allowlist": ["bank.example:443/tcp", "dns"], "firewall": "sys-firewall-bank"},
    },
}
