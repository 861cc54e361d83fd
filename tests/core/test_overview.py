# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes_vpn.status` as lines, of inventories (R67); with Salt: tests/salt/test_status.py."""

import pytest

import qubes_vpn_doctor
import qubes_vpn_overview

from .test_doctor import healthy, portal, qube


def lines(change):
    """The status of a machine as the pillar says, after ``change(qubes)``."""
    subject = healthy()
    change(subject.inventory["qubes"])
    found = qubes_vpn_overview.data(subject, qubes_vpn_doctor.examine(subject), [])
    return qubes_vpn_overview.text(found).splitlines()


@pytest.mark.parametrize(
    ("netvm", "said"),
    [
        (
            "sys-net",
            "Tor: sys-whonix -> sys-net, PAST EVERY TUNNEL: your line sees that Tor is used; "
            "behind it: anon",
        ),
        (
            "sys-firewall",
            "Tor: sys-whonix -> sys-firewall -> sys-dns -> sys-vpn -> sys-net; behind it: anon",
        ),
        (None, "Tor: sys-whonix is offline"),
    ],
)
def test_it_says_where_tor_hangs_and_who_is_behind_it(netvm, said):
    """R08. Whether the pillar places Whonix' gateway or not; a switch may have moved its netvm."""

    def whonix(qubes):
        qubes["sys-whonix"] = qube("t", netvm, True, tags=["anon-gateway"])
        qubes["anon"] = qube("t", "sys-whonix", tags=["anon-vm"])

    assert [line for line in lines(whonix) if line.startswith("Tor: ")] == [said]


def test_without_whonix_there_is_no_word_of_tor():
    assert [line for line in lines(lambda qubes: None) if "Tor" in line] == []


def test_a_bypass_is_its_first_line():
    """R05."""
    first = "PAST THE VPN: portal, by a bypass until 2026-03-01 12:45, which is over"
    assert lines(portal)[0] == first
