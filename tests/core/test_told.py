# SPDX-License-Identifier: GPL-2.0-or-later
"""What a qube tells dom0 is of a fixed form, or is nothing: whatever a hostile one sends (R67)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import qubes_vpn_told as told
from qubes_vpn_formula.lab import services

STATUS = {
    "version": "1",
    "role": "tunnel",
    "forwarding": True,
    "custom_persist": False,
    "units": dict.fromkeys(told.UNITS, "active"),
    "scripts": {"idle": 0, "dos": 0, "broken": 0},
    "killswitch": {
        "state": "open",
        "in_template": True,
        "problems": 0,
        "drift": 0,
        "endpoints": 3,
        "log": False,
        "counters": {"dropped": 17, "refused": 0},
    },
    "tunnel": {
        "kind": "wireguard",
        "state": "up",
        "interface": "wg0",
        "handshake": 41,
        "server": "192.0.2.1:51820",
        "sent": 1,
        "received": 2,
        "faults": [],
        "profiles": [{"id": told.profile_id("se.conf"), "state": "up"}],
    },
    "mullvad": None,
    "dns": {"open": True, "resolvers": ["10.64.0.1"], "named": ["10.64.0.1"], "follows": True},
    "resolver": None,
}


def places(value, path=()):
    """Every place in *value*, the way to it."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(path, new):
    """The status with *new* at that place."""
    if not path:
        return new
    copy = json.loads(json.dumps(STATUS))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return copy


def texts(value):
    if isinstance(value, dict):
        return [text for each in value.values() for text in texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts(each)]
    return [value] if isinstance(value, str) else []


def test_the_services_are_those_of_the_templates():
    assert (services.TUNNEL, services.RESOLVER) == (told.SERVICES, told.OF_RESOLVERS)


def test_what_a_qube_says_comes_through_whole():
    assert told.read(json.dumps(STATUS).encode(), told.STATUS) == STATUS


def test_what_is_not_in_the_form_is_dropped():
    more = {**STATUS, "note": "\033[2J", "killswitch": {**STATUS["killswitch"], "x": ["y"]}}
    assert told.read(json.dumps(more).encode(), told.STATUS) == STATUS


@pytest.mark.parametrize("path", list(places(STATUS)), ids=str)
@pytest.mark.parametrize(
    "new", ["\033]0;owned\007", "x" * 5000, -1, 1e300, 2**70, [[]], {"a": 1}, [None] * 9], ids=repr
)
def test_nothing_of_another_kind_gets_through_anywhere(path, new):
    data = json.dumps(changed(path, new)).encode()
    try:
        found = told.read(data, told.STATUS)
    except told.NotUnderstood as error:
        said = str(error)
    else:
        said = ""
        assert new not in texts(found)
        # What was taken is of the form: it reads as itself.
        assert told.read(json.dumps(found).encode(), told.STATUS) == found
    assert said.isprintable()
    assert len(said) < 100


@pytest.mark.parametrize("port", ["0", "65535", "65536", "99999"])
def test_a_port_is_one_that_there_is(port):
    data = json.dumps(changed(("tunnel", "server"), f"[2001:db8::1]:{port}")).encode()
    row = {"time": 1, "from": "192.0.2.1", "to": "192.0.2.2", "protocol": "UDP"}
    row |= {"in": None, "out": None, "from_port": None, "to_port": int(port)}
    drops = json.dumps({"version": "1", "log": True, "rows": [row]}).encode()
    for answer, form in ((data, told.STATUS), (drops, told.DROPS)):
        if int(port) <= 65535:
            told.read(answer, form)
            continue
        with pytest.raises(told.NotUnderstood, match=r"(server|to_port) is not what it may be"):
            told.read(answer, form)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"1" * 60_000,
        b"NaN",
        b"null",
        b'"text"',
        b"{}",
        b'{"version": "2"}',
        json.dumps(STATUS).encode()[:-1],
        json.dumps(STATUS).encode() + b"x",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_no_form_at_all_is_an_error_in_words(data):
    with pytest.raises(told.NotUnderstood) as error:
        told.read(data, told.STATUS)
    assert str(error.value).isprintable()


@given(st.binary(max_size=300))
def test_any_bytes(data):
    with pytest.raises(told.NotUnderstood):
        told.read(data, told.STATUS)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.sampled_from(list(places(STATUS))), ANYTHING)
def test_any_value_anywhere(path, new):
    try:
        found = told.read(json.dumps(changed(path, new)).encode(), told.STATUS)
    except told.NotUnderstood:
        return
    assert all(text.isprintable() and text.isascii() for text in texts(found))


def test_servers_and_addresses_are_numbers():
    for server, shown in (
        ("192.0.2.1:51820", "192.0.2.1:51820"),
        ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
        ("vpn.example:443", None),
        ("[fe80::1%eth0]:1", None),
        ("192.0.2.1:99999999", None),
        ("192.0.2.1:٣", None),
    ):
        data = json.dumps(changed(("tunnel", "server"), server)).encode()
        if shown:
            assert told.read(data, told.STATUS)["tunnel"]["server"] == shown
        else:
            with pytest.raises(told.NotUnderstood, match=r"answer\.tunnel\.server"):
                told.read(data, told.STATUS)


def test_drops_are_rows():
    row = {
        "time": 1790000000,
        "in": "vif3.0",
        "out": "eth0",
        "from": "10.137.0.3",
        "to": "203.0.113.1",
        "protocol": "UDP",
        "from_port": 1000,
        "to_port": 53,
    }
    answer = {"version": "1", "log": True, "rows": [row]}
    assert told.read(json.dumps(answer).encode(), told.DROPS) == answer
    for key, new in (("protocol", "UDP\033[0m"), ("in", "x" * 16), ("to", "host"), ("time", -1)):
        bad = {**answer, "rows": [{**row, key: new}]}
        with pytest.raises(told.NotUnderstood, match=rf"rows\[0\]\.{key}"):
            told.read(json.dumps(bad).encode(), told.DROPS)
    many = {**answer, "rows": [row] * 1001}
    with pytest.raises(told.NotUnderstood):
        told.read(json.dumps(many).encode(), told.DROPS)
