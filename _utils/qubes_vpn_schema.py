# SPDX-License-Identifier: GPL-2.0-or-later
"""Every key of the pillar, its kind and its default.  ``pillar.example`` explains them to users.

A default of ``...`` means that the key is required; ``None`` that the model or the machine
decides (an upstream comes from the topology, a template from dom0's default).
"""

from typing import NamedTuple

import qubes_vpn_net
import qubes_vpn_relays
import qubes_vpn_updates
from qubes_vpn_dnscrypt_pillar import DNSCRYPT_PROXY
from qubes_vpn_layout import DEFAULT, TOR_OR_DEFAULT, Layout
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


class Topology(NamedTuple):
    """A ready-made topology.

    chain: ``(role, default name)`` from the clients' side to the uplink; a tunnel has no default
    name, and :data:`TOR` is Whonix' gateway, which is only given its netvm.
    beside: default names of firewalls on the uplink, past the VPN (R05).
    tor_beside: Whonix' gateway is behind the chain, beside the clients.
    """

    chain: tuple
    beside: tuple = ()
    tor_beside: bool = False

    def has_tor(self):
        """Whether it says where Whonix' gateway is."""
        return self.tor_beside or (TOR, None) in self.chain


#: The role of Whonix' gateway in a chain.  It is no service qube of ours.
TOR = "tor"
_FIREWALL, _RESOLVER, _TUNNEL = (
    ("firewall", "sys-firewall"),
    ("resolver", "sys-dns"),
    ("tunnel", None),
)
_DNS, _NOVPN = (_FIREWALL, _RESOLVER, _TUNNEL), ("sys-firewall-novpn",)

#: Ready-made topologies by name (R02, R03, R04, R05, R06, R88).
TOPOLOGIES = {
    "dns": Topology(_DNS),
    "simple": Topology((_TUNNEL, _FIREWALL)),
    "sandwich": Topology((*_DNS, ("firewall", "sys-firewall-uplink"))),
    "parallel": Topology(_DNS, beside=_NOVPN),
    "multihop": Topology((*_DNS, _TUNNEL)),
    "tor-over-vpn": Topology(((TOR, None), _FIREWALL, _TUNNEL)),
    "vpn-over-tor": Topology((_TUNNEL, ("firewall", "sys-firewall-tor"), (TOR, None))),
    "dns-tor-vpn": Topology((_FIREWALL, _RESOLVER, (TOR, None), _TUNNEL)),
    "mixed": Topology(_DNS, beside=_NOVPN, tor_beside=True),
    "custom": Topology(()),
}

_MEMORY = Whole(64, 1048576, "megabytes")
_LISTED = Address(qubes_vpn_net.destination, qubes_vpn_net.LISTED)
_DAYS = Whole(1, 366, "days")


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
        "endpoints": (
            ListOf(Address(qubes_vpn_net.endpoint, qubes_vpn_net.ENDPOINT), least=1),
            ...,
        ),
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
        # Required but for a preset's name.
        "label": (Choice(*LABELS), None),
        "memory": (_MEMORY, None),
        "maxmem": (_MEMORY, None),
        "disposable_template": (Switch(), None),
        "default_dispvm": (Name("none"), None),
        "netvm": (Name("none", DEFAULT, TOR_OR_DEFAULT), None),
        "vault": (Switch(), None),
        "allowlist": (ListOf(_LISTED), None),
        "firewall": (Name(new=True), None),
    }
)

#: A way past the VPN for one disposable, for minutes (docs/decisions/0037).
BYPASS = Keys(
    {
        "netvm": (Name(), ...),
        "template": (Name(), None),
        "name": (Name(new=True), "disp-portal"),
        "minutes": (Whole(1, 60, "minutes"), 15),
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
        "topology": (Choice(*TOPOLOGIES), "dns"),
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
        "bypass": (BYPASS, None),
        "allowlists": (
            MapOf(ListOf(_LISTED), "banking: [bank.example:443/tcp, dns]"),
            {},
        ),
        "disposables": (Name("none", "keep"), None),
        "default_dispvm": (Name("none", "keep"), "keep"),
        "updates": (
            Keys(
                {
                    "templates": (Name("none", "keep"), "keep"),
                    "dom0": (Name("none", "keep"), "keep"),
                    "outside_vpn": (ListOf(Choice("templates", "dom0")), ()),
                    "check_days": (_DAYS, qubes_vpn_updates.CHECK_DAYS),
                    "restart_days": (_DAYS, qubes_vpn_updates.RESTART_DAYS),
                }
            ),
            {
                "templates": "keep",
                "dom0": "keep",
                "outside_vpn": (),
                "check_days": qubes_vpn_updates.CHECK_DAYS,
                "restart_days": qubes_vpn_updates.RESTART_DAYS,
            },
        ),
        "clock": (Name("none", "keep"), "keep"),
        "whonix": (Choice("behind_vpn", "direct", "unmanaged"), None),
        "whonix_gateway": (Name(), "sys-whonix"),
        "layout": (Layout(LAYOUT_QUBE, "banking: {label: green}", new=True), {}),
        "audit": (Keys({"exceptions": (ListOf(EXCEPTION), ())}), {"exceptions": ()}),
        "restart_clients": (Choice("never", "ask", "yes", true="yes"), "never"),
        "tests": (TESTS, None),
    }
)

#: Templates that exist without being written down, because defaults above name them.
DEFAULT_TEMPLATES = {"t-vpn": "debian-13-minimal", "t-dns": "debian-13-minimal"}
