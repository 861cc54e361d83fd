# SPDX-License-Identifier: GPL-2.0-or-later
"""What a pillar says of where its endpoints come from (R36), as dom0 sees it."""

import datetime

import pytest

import qubes_vpn_model
import qubes_vpn_net
import qubes_vpn_relays

from .pillars import pillar, tunnel

ENDPOINTS = ["203.0.113.7:51820/udp", "[2001:db8::7]:51820/udp"]
SELECTION = {"list": "mullvad", "countries": ["se", "no"], "also": ["192.0.2.9:1/udp"]}


def chosen(**keys):
    """A tunnel's `relays` with the right checksum."""
    said = {**SELECTION, "taken": "2026-11-22", **keys}
    read = qubes_vpn_relays.RELAYS.read({**said, "sha256": "0" * 64}, (), [])
    endpoints = [qubes_vpn_net.endpoint(text) for text in ENDPOINTS]
    return {**said, "sha256": qubes_vpn_relays.checksum(read, endpoints)}


def problems(relays, endpoints=ENDPOINTS):
    keys = tunnel(endpoints=endpoints, relays=relays)
    return [problem.what for problem in qubes_vpn_model.read(pillar(tunnels={"sys-vpn": keys}))[1]]


def test_what_fits():
    assert problems(chosen()) == []
    assert problems(chosen(), ENDPOINTS[::-1]) == []


def test_a_date_is_a_date_however_yaml_was_read():
    """PyYAML makes a date of it, Salt a text."""
    said = chosen()
    assert problems({**said, "taken": datetime.date(2026, 11, 22)}) == []
    assert problems({**said, "taken": "20261122"}) == []
    assert problems({**said, "taken": datetime.datetime(2026, 11, 22, 1)}) != []


def test_a_default_that_is_written_down_changes_nothing():
    """Also one that a later version brings."""
    assert problems({**chosen(), "ipv6": False, "api": True, "cities": []}) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"countries": ["se"]},
        {"countries": ["no", "se"]},
        {"owner": "rented"},
        {"port": 51820},
        {"ipv6": True},
        {"api": False},
        {"also": []},
        {"list": "plain"},
        {"taken": "2026-11-23"},
    ],
)
def test_every_key_counts(changed):
    (what,) = problems({**chosen(), **changed})
    assert what == "the selection or the endpoints were changed since they were taken"


@pytest.mark.parametrize(
    "endpoints", [ENDPOINTS[:1], [*ENDPOINTS, "192.0.2.1:1/udp"], ["203.0.113.7:51821/udp"]]
)
def test_every_endpoint_counts(endpoints):
    assert len(problems(chosen(), endpoints)) == 1


def test_old_is_older_than_thirty_days():
    relays = chosen()
    for days, stale in ((0, None), (30, None), (31, 31), (-5, None)):
        today = datetime.date(2026, 11, 22) + datetime.timedelta(days=days)
        assert qubes_vpn_relays.stale(relays, today) == stale
