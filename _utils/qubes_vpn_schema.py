# SPDX-License-Identifier: GPL-2.0-or-later
"""Every key of the pillar, its kind and its default.  ``pillar.example`` explains them to users.

A default of ``...`` means that the key is required; ``None`` that the model or the machine
decides (an upstream comes from the topology, a template from dom0's default).
"""

import qubes_vpn_net
import qubes_vpn_relays
from qubes_vpn_dnscrypt_pillar import DNSCRYPT_PROXY
from qubes_vpn_mullvad_pillar import MULLVAD
from qubes_vpn_tests_pillar import TESTS
from qubes_vpn_types import (
    Address,
    Choice,
    File,
    Interface,
    Keys,
    ListOf,
    MapOf,
    Name,
    Pattern,
    Row,
    Sentence,
    Switch,
    Whole,
)

LABELS = ("red", "orange", "yellow", "green", "gray", "blue", "purple", "black")

_MEMORY = Whole(64, 1048576, "megabytes")


def _qube(template, label):
    """The keys that every service qube has (memory in megabytes: R01)."""
    return {
        "upstream": (Name(), None),
        "template": (Name(), template),
        "label": (Choice(*LABELS), label),
        "memory": (_MEMORY, 400),
        "maxmem": (_MEMORY, 600),
        "autostart": (Switch(), True),
    }


TUNNEL = Keys(
    {
        "kind": (Choice("wireguard", "openvpn", "mullvad"), ...),
        "profile": (File(), None),
        "profiles": (ListOf(File()), ()),
        "endpoints": (ListOf(Address(qubes_vpn_net.endpoint), least=1), ...),
        "relays": (qubes_vpn_relays.RELAYS, None),
        "interface": (Interface(), None),
        "log_drops": (Switch(), False),
        "disposable": (Switch(), False),
        "mullvad": (MULLVAD, None),
        **_qube("t-vpn", "orange"),
    }
)
RESOLVER = Keys({"dnscrypt": (DNSCRYPT_PROXY, None), **_qube("t-dns", "orange")})
FIREWALL = Keys(_qube(None, "green"))
LAYOUT_QUBE = Keys(
    {
        "template": (Name(), None),
        "label": (Choice(*LABELS), ...),
        "memory": (_MEMORY, None),
        "maxmem": (_MEMORY, None),
        "disposable_template": (Switch(), False),
    }
)

#: What an audit finds and somebody lives with; an item of a list has to be comparable.
EXCEPTION = Row(
    {
        "rule": (
            Pattern(r"A\d{3}\Z", "is no rule of the audit", "Write its id, such as A101."),
            ...,
        ),
        "qube": (Name("dom0"), ...),
        "reason": (Sentence(), ...),
    }
)

PILLAR = Keys(
    {
        "topology": (Choice("dns", "simple", "custom"), "dns"),
        "uplink": (Name(), "sys-net"),
        "templates": (
            MapOf(
                Keys({"clone_of": (Name(), ...), "netvm_while_installing": (Name("none"), "none")}),
                "t-vpn: {clone_of: debian-13-minimal}",
                new=True,
            ),
            {},
        ),
        "tunnels": (MapOf(TUNNEL, "sys-vpn: {kind: wireguard, ...}", least=1, new=True), ...),
        "resolvers": (MapOf(RESOLVER, "sys-dns: {}", new=True), None),
        "firewalls": (MapOf(FIREWALL, "sys-firewall: {}", new=True), None),
        "routes": (
            Keys(
                {
                    "default": (Name("none", "keep"), None),
                    "qubes": (MapOf(Name("none"), "work: sys-firewall"), {}),
                }
            ),
            {"default": None, "qubes": {}},
        ),
        "outside_vpn": (ListOf(Name()), ()),
        "vaults": (ListOf(Name()), ()),
        "allowlists": (
            MapOf(
                ListOf(Address(qubes_vpn_net.destination)), "banking: [bank.example:443/tcp, dns]"
            ),
            {},
        ),
        "disposables": (Name("none", "keep"), None),
        "default_dispvm": (Name("none", "keep"), "keep"),
        "updates": (
            Keys(
                {
                    "templates": (Name("none", "keep"), "keep"),
                    "dom0": (Name("none", "keep"), "keep"),
                }
            ),
            {"templates": "keep", "dom0": "keep"},
        ),
        "clock": (Name("none", "keep"), "keep"),
        "whonix": (Choice("behind_vpn", "direct", "unmanaged"), "unmanaged"),
        "whonix_gateway": (Name(), "sys-whonix"),
        "layout": (MapOf(LAYOUT_QUBE, "banking: {label: green}", new=True), {}),
        "audit": (Keys({"exceptions": (ListOf(EXCEPTION), ())}), {"exceptions": ()}),
        "restart_clients": (Choice("never", "ask", "yes", true="yes"), "never"),
        "tests": (TESTS, None),
    }
)

#: Templates that exist without being written down, because defaults above name them.
DEFAULT_TEMPLATES = {"t-vpn": "debian-13-minimal", "t-dns": "debian-13-minimal"}

#: Ready-made topologies: the roles from the client's side to the uplink (R02, R03).
TOPOLOGIES = {
    "dns": ("firewall", "resolver", "tunnel"),
    "simple": ("tunnel", "firewall"),
    "custom": (),
}
#: The service qubes that exist without being written down when a topology has their role.
DEFAULT_QUBES = {"firewall": "sys-firewall", "resolver": "sys-dns"}
