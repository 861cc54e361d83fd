# SPDX-License-Identifier: GPL-2.0-or-later
"""What a VPN qube gets of the pillar, and what it does not."""

import json

import pytest

import qubes_vpn_model
import qubes_vpn_part

from .pillars import pillar

RELAY, API = "203.0.113.7:51820/udp", "45.83.223.196:443/tcp"


@pytest.mark.parametrize(
    ("endpoints", "api"),
    [([RELAY], False), ([RELAY, API], True), ([RELAY, "45.83.223.0/24:1-1000/tcp"], True)],
)
def test_a_qube_with_the_app_gets_its_settings(endpoints, api):
    """R30. In the order killswitch, app, DNS; as Salt can carry them."""
    app = {"kind": "mullvad", "endpoints": endpoints, "mullvad": {"location": "se"}}
    model = qubes_vpn_model.build(pillar(tunnels={"sys-vpn": app}))
    role, states = qubes_vpn_part.part(model, "sys-vpn")
    assert (role, list(states)) == ("qube", ["killswitch", "mullvad", "dnat_dns"])
    assert states["mullvad"]["api"] is api
    settings = json.loads(json.dumps(states["mullvad"]["settings"]))
    assert (settings["location"], settings["wireguard_port"]) == ("se", 51820)


def test_another_tunnel_gets_none():
    model = qubes_vpn_model.build(pillar())
    assert "mullvad" not in qubes_vpn_part.part(model, "sys-vpn")[1]


def test_a_resolver_and_its_template_have_a_part():
    """R51, R55. Templates come first; the flag tells the template's files what the qube is."""
    model = qubes_vpn_model.build(pillar())
    assert qubes_vpn_part.targets(model) == ["t-vpn", "t-dns", "sys-vpn", "sys-dns"]
    role, states = qubes_vpn_part.part(model, "sys-dns")
    assert (role, list(states)) == ("qube", ["dnat_dns", "dnscrypt"])
    assert states["dnat_dns"] == {"name": "sys-dns", "to": "resolver"}
    role, states = qubes_vpn_part.part(model, "t-dns")
    assert (role, states["software"]["kinds"]) == ("template", ["dnscrypt"])
    assert qubes_vpn_part.software(model, "t-vpn")["kinds"] == ["wireguard"]


def test_a_template_that_both_share_gets_what_both_need():
    """R22. It is named once."""
    shared = {"sys-dns": {"template": "t-vpn"}}
    model = qubes_vpn_model.build(pillar(resolvers=shared))
    assert qubes_vpn_part.targets(model) == ["t-vpn", "sys-vpn", "sys-dns"]
    assert qubes_vpn_part.software(model, "t-vpn")["kinds"] == ["wireguard", "dnscrypt"]


def test_without_resolvers_nobody_gets_a_resolvers_part():
    model = qubes_vpn_model.build(pillar(topology="simple"))
    assert qubes_vpn_part.targets(model) == ["t-vpn", "sys-vpn"]
    assert qubes_vpn_part.part(model, "sys-dns") == (None, {})
