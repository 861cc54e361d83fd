# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes-vpn check` of routes that leave Tor out where the topology leads through it (R08, R88)."""

import pytest
from generator.test_check_dns import remarks

ROUTES = {"work": "sys-firewall", "personal": "sys-whonix", "mail": "sys-vpn", "games": "none"}
PAST = "does not pass sys-whonix, which the topology does. Write {}, unless that is meant."


@pytest.mark.parametrize(
    ("topology", "past", "head"),
    [
        (
            "tor-over-vpn",
            {
                "work": "work -> sys-firewall -> sys-vpn -> sys-net",
                "mail": "mail -> sys-vpn -> sys-net",
            },
            "sys-whonix",
        ),
        ("dns-tor-vpn", {"mail": "mail -> sys-vpn -> sys-net"}, "sys-firewall"),
        ("mixed", {}, None),  # each qube's own choice
        ("dns", {}, None),
    ],
)
def test_a_route_that_leaves_tor_out_is_a_remark(tmp_path, capsys, topology, past, head):
    """It was written for another topology, perhaps: the names are the same."""
    found = remarks(tmp_path, capsys, topology=topology, routes={"qubes": ROUTES})
    assert found == {
        f"qubes_vpn.routes.qubes.{name}": f"{way} {PAST.format(head)}" for name, way in past.items()
    }
