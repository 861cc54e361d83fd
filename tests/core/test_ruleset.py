# SPDX-License-Identifier: GPL-2.0-or-later
"""The killswitch's rules as text: nft takes every one that configuration can lead to (R41, R45)."""

import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_qube import skip_where_impossible

import qubes_vpn_nft
import qubes_vpn_ruleset
from core.test_endpoints import area, destinations, holds, points, wanted
from qubes_vpn_endpoints import elements
from qubes_vpn_formula.paths import formula_root
from qubes_vpn_ruleset import (
    DEFAULT_INTERFACES,
    Configuration,
    NotAConfiguration,
    gates,
    interface,
    read_settings,
    transaction,
    write_settings,
)

INTERFACES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", fullmatch=True).filter(
    lambda name: interface(name) is None
)


@pytest.fixture(scope="module")
def closed(checkout):
    return (checkout / "salt/qubes/network/files/closed.nft").read_text()


def as_nft_lists(text):
    """How nft shows these rules, in a network of their own; Failed when it refuses them."""
    skip_where_impossible()
    return qubes_vpn_nft.listed_elsewhere(text, "inet")


def inside(blocks, name):
    """The elements of a set."""
    return [line for line in blocks[f"set {name}"] if " . " in line and "type" not in line]


@settings(max_examples=25)
@given(
    found=st.lists(destinations(), max_size=8),
    interfaces=st.lists(INTERFACES, min_size=1, max_size=3, unique=True),
    log=st.booleans(),
)
def test_nft_takes_every_configuration_and_admits_nothing_else(closed, found, interfaces, log):
    blocks = as_nft_lists(
        transaction(closed, Configuration(tuple(interfaces), log, elements(found)))
    )
    for version in (4, 6):
        asked = [wanted(one) for one in found if one.version == version]
        loaded = [
            area(one)
            for name in (f"endpoints{version}", f"ranges{version}")
            for one in inside(blocks, name)
        ]
        for point in points(asked):
            assert bool(holds(asked, point)) == bool(holds(loaded, point)), point
    assert [line for line in blocks["set tunnel_names"] if '"' in line] == sorted(
        f'"{name}"' for name in interfaces
    )
    # All the rest is as in the closed set.
    base = as_nft_lists(closed)
    sets = {
        f"set {name}" for name in ("tunnel_names", "endpoints4", "endpoints6", "ranges4", "ranges6")
    }
    changed = {name for name in base | blocks if base.get(name) != blocks.get(name)}
    assert changed - sets == ({"chain note"} if log else set())


def test_closed_it_has_no_element_and_drops(closed):
    """R82."""
    blocks = as_nft_lists(transaction(closed))
    assert not [line for lines in blocks.values() for line in lines if "elements" in line]
    hooks = [line for lines in blocks.values() for line in lines if "type filter hook" in line]
    assert len(hooks) == 4
    assert all(line.endswith("policy drop;") for line in hooks)


def test_loading_it_twice_changes_nothing(closed):
    """R45. One transaction after the other, with other sets in between."""
    opened = transaction(closed, Configuration(("tun0",), True, elements([])))
    assert as_nft_lists(opened + closed) == as_nft_lists(closed)
    assert as_nft_lists(closed + opened) == as_nft_lists(opened)


def test_gates_of_devices_are_taken(closed):
    skip_where_impossible()
    blocks = qubes_vpn_nft.listed_elsewhere(transaction(closed, devices=[(1, "lo")]), "netdev")
    (chain,) = blocks
    assert chain == "chain egress-1"
    hook, *rules = blocks[chain]
    assert "policy drop" in hook
    assert rules[-1].endswith("drop")
    assert gates([]) == ""


# --- killswitch.conf


@given(st.lists(INTERFACES, min_size=1, max_size=4, unique=True), st.booleans())
def test_settings_that_are_written_are_read_again(interfaces, log):
    assert read_settings(write_settings(interfaces, log).encode()) == (tuple(interfaces), log)


@pytest.mark.parametrize("data", [b"", b"# interface = tun0\n", b"\r\n"])
def test_without_settings_the_usual_names_are_tunnels(data):
    assert read_settings(data) == (DEFAULT_INTERFACES, False)


@pytest.mark.parametrize(
    "data", [b"interface=mine\r\nlog=yes", b" interface = mine # x\n\tlog = yes\n"]
)
def test_settings_may_be_written_in_any_way(data):
    assert read_settings(data) == (("mine",), True)


@pytest.mark.parametrize(
    "data",
    [
        b"interface = eth0\n",
        b"interface = lo\n",
        b"interface = vif5.0\n",
        b"interface = *\n",
        b"interface = wg*\n",
        b"interface =\n",
        b'interface = wg0"; accept\n',
        b"interface = wg0, eth0\n",
        b"interface = sixteen-letters-\n",
        b"interface = ../wg0\n",
        b"interface wg0\n",
        b"log = maybe\n",
        b"log\n",
        b"endpoints = 0.0.0.0/0\n",
        b"\xff\xfei\x00",
        b"interface = wg0\x00\n",
    ],
)
def test_other_settings_are_refused(data):
    with pytest.raises(NotAConfiguration) as error:
        read_settings(data, "k")
    assert all(problem.startswith("k:") for problem in error.value.problems)


@given(st.text(max_size=30))
def test_no_text_is_an_interface_that_nft_would_read_otherwise(name):
    if interface(name) is None:
        assert re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", name)
        assert name != "lo"
        assert not name.startswith(("eth", "vif"))


def test_the_closed_rules_are_those_that_this_version_knows():
    """R45. By its hash the killswitch finds a template with other rules."""
    closed = formula_root() / "salt/qubes/network/files/closed.nft"
    assert hashlib.sha256(closed.read_bytes()).hexdigest() == qubes_vpn_ruleset.CLOSED
