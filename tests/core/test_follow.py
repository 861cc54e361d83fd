# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients' DNS goes to what the tunnel names and what has answered; else nowhere (R50, R52, R55).

Rules of a real kernel in a namespace of their own; what the tunnel names and who answers is given.
With real tunnels and packets: the attacks Q01 to Q05, and tests/booted/test_tunnel.py.
"""

import os

import pytest
from in_qube import run_in, skip_where_impossible

import qubes_vpn_follow
import qubes_vpn_killswitch
import qubes_vpn_nft
import qubes_vpn_question
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_killswitch import RESOLVERS

A, B, C, SIX = "10.64.0.1", "10.64.0.2", "10.64.0.3", "fd64::1"


@pytest.fixture(scope="module")
def library(checkout):
    """The folder with the formula's own closed.nft."""
    return checkout / "salt/qubes/network/files"


@pytest.fixture(scope="module")
def shared(library):
    skip_where_impossible()
    with Qube("sys-vpn") as qube:
        qube.run("ip link add eth0 type veth peer name far; ip link set eth0 up group 1")
        qube.write("/rw/config/vpn/endpoints.txt", "192.0.2.1:51820/udp\n")
        yield qube


@pytest.fixture
def qube(shared, library):
    """A qube that is open for its tunnel, clients' DNS closed."""
    shared.run(f"rm -f {RESOLVERS}")
    assert run_in(shared, qubes_vpn_killswitch.load, library).open
    return shared


def loaded(qube):
    """What the sets and maps hold, by name; those that are empty are not there."""
    blocks = qubes_vpn_nft.blocks(qube.run("nft -s list table inet qubes_vpn").stdout)
    kinds = ("set resolvers", "map first", "map second")
    found = {name: lines for name, lines in blocks.items() if name.startswith(kinds)}
    return {name.split()[1]: lines[1:] for name, lines in found.items() if lines[1:]}


def both(address):
    return [f"tcp : {address}", f"udp : {address}"]


@pytest.mark.parametrize(
    ("addresses", "elements"),
    [
        ((), {}),
        ((A,), {"resolvers4": [A], "first4": both(A)}),
        ((B, A), {"resolvers4": [A, B], "first4": both(B), "second4": both(A)}),
        ((A, B, C), {"resolvers4": [A, B], "first4": both(A), "second4": both(B)}),
        ((SIX,), {"resolvers6": [SIX], "first6": both(SIX)}),
    ],
)
def test_resolvers_become_elements_and_loads_keep_them(qube, library, addresses, elements):
    told = run_in(qube, qubes_vpn_killswitch.resolve, library, addresses)
    assert told == tuple(one for one in addresses if one != C)  # the third of IPv4
    assert loaded(qube) == elements
    assert run_in(qube, qubes_vpn_killswitch.load, library) == (True, (), True)
    assert loaded(qube) == elements
    assert run_in(qube, qubes_vpn_killswitch.close, library).problems == ()
    assert loaded(qube) == {}


def test_when_the_killswitch_is_closed_nothing_is_opened(qube, library):
    run_in(qube, qubes_vpn_killswitch.close, library)
    assert run_in(qube, qubes_vpn_killswitch.resolve, library, (A,)) == ()
    assert (loaded(qube), qube.exists(str(RESOLVERS))) == ({}, False)


@pytest.mark.parametrize("text", ["10.64.0.1; accept\n", "0.0.0.0/0\n", "\xff", "10.64.0.1\n\n"])
def test_what_is_written_down_and_cannot_be_used_is_nothing(qube, library, text):
    qube.write(str(RESOLVERS), text)
    assert run_in(qube, qubes_vpn_killswitch.load, library).open
    assert loaded(qube) == {}


def test_killed_at_any_point_a_load_makes_it_old_or_new_or_closed(qube, library, monkeypatch):
    """And the follower's next start closes it."""
    run = qubes_vpn_nft.run
    for at in range(1, 30):
        run_in(qube, qubes_vpn_killswitch.resolve, library, (A,))
        calls = []

        def killed(*argv, at=at, calls=calls, **more):
            calls.append(argv)
            return os._exit(9) if len(calls) == at else run(*argv, **more)

        with monkeypatch.context() as patch:
            patch.setattr(qubes_vpn_nft, "run", killed)
            try:
                done = run_in(qube, qubes_vpn_killswitch.resolve, library, (B,))
            except AssertionError:  # it said nothing any more
                done = None
        if done:
            assert (done, at > 5) == ((B,), True)
            return
        assert run_in(qube, qubes_vpn_killswitch.load, library).open
        assert loaded(qube).get("resolvers4") in ([A], [B], None)
        assert run_in(qube, qubes_vpn_follow.close, library)
        assert loaded(qube) == {}
    pytest.fail("it never finished")


# --- a turn


@pytest.fixture
def follow(qube, library, monkeypatch):
    """A turn: `(named, who answers) -> (who was asked, what was open then, seconds)`."""

    def turn(named, answering, woken=False):
        asked = []

        def ask(devices, wake=()):
            asked.append((list(devices), qubes_vpn_killswitch.resolvers()))
            return [address for address in devices if address in answering]

        reading, writing = os.pipe()
        if woken:
            os.write(writing, b"x")
        with monkeypatch.context() as patch:
            patch.setattr(qubes_vpn_follow, "named", lambda: dict.fromkeys(named, "wg0"))
            patch.setattr(qubes_vpn_question, "ask", ask)
            return run_in(qube, lambda: (qubes_vpn_follow.turn(library, [reading]), asked))

    return turn


def test_it_opens_for_who_has_answered_and_closes_at_once_what_is_not_named(qube, follow):
    wait, asked = follow([A, B, C], [C, B])
    assert (asked, loaded(qube)["first4"]) == ([([A, B, C], ())], both(B))
    assert wait >= 20
    wait, asked = follow([A, B], [A, B])
    assert asked == [([A, B], (B,))]  # C is gone before anybody is asked
    assert loaded(qube)["second4"] == both(B)
    wait, asked = follow([], [A])
    assert (asked, loaded(qube), qube.exists(str(RESOLVERS))) == ([], {}, False)


def test_of_three_that_are_named_two_are_used_and_told(qube, follow):
    """And the third does not make it load the same again and again."""
    follow([A, B, C], [A, B, C])
    assert run_in(qube, qubes_vpn_killswitch.resolvers) == (A, B)
    assert loaded(qube)["resolvers4"] == [A, B]
    before = qube.run("nft --handle list ruleset").stdout
    assert follow([A, B, C], [A, B, C])[1] == [([A, B, C], (A, B))]
    assert qube.run("nft --handle list ruleset").stdout == before
    follow([A, B, C], [B, C])
    assert loaded(qube)["first4"] == both(B)
    assert loaded(qube)["second4"] == both(C)


def test_clients_lists_are_read_again_for_a_new_resolver_alone(qube, follow):
    """R11, R50: `specialtarget=dns` is what resolv.conf named; nobody else tells of the app's."""
    log = "/run/systemctl.log"
    qube.write("/usr/bin/systemctl", f'#!/bin/sh\necho "$@" >>{log}\n', 0o755)
    told = "--no-block try-reload-or-restart qubes-firewall.service\n"
    for named, answering, times in (([A, B], [A], 1), ([A, B], [A], 1), ([B], [B], 2), ([], [], 2)):
        follow(named, answering)
        assert qube.read(log) == told * times


def test_silence_closes_and_an_interruption_does_not(qube, follow):
    follow([A], [A])
    wait, _ = follow([A], [], woken=True)
    assert (wait, loaded(qube)["first4"]) == (0, both(A))
    wait, _ = follow([A], [])
    assert (wait <= 1, loaded(qube)) == (True, {})


def test_nobody_is_asked_while_the_killswitch_is_closed(qube, library, follow):
    run_in(qube, qubes_vpn_killswitch.close, library)
    assert follow([A], [A])[1] == []


# --- who may be one

ROUTES = "ip tuntap add wg0 mode tun; ip link set wg0 up; ip route replace default dev wg0"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("nameserver 10.64.0.1\nnameserver fd64::1\n", [A, SIX]),
        ("# nameserver 10.64.0.1\nsearch a\nnameserver\n nameserver  10.64.0.2  x\n", [B]),
        ("nameserver 10.139.1.1\nnameserver 10.139.1.2\nnameserver 10.137.0.5\n", []),
        ("nameserver 127.0.0.1\nnameserver ::1\nnameserver fe80::1%wg0\nnameserver fe80::1\n", []),
        ("nameserver 0.0.0.0\nnameserver 224.0.0.1\nnameserver a.example\nnameserver ::\n", []),
        ("nameserver 192.168.9.1\n", []),  # by the uplink
        ("nameserver 127.0.0.53\n", [C]),  # behind systemd-resolved's stub
        ("", []),
    ],
)
def test_it_has_an_address_that_is_in_the_tunnel(qube, lines, found):
    qube.run(
        f"{ROUTES}; ip -6 route replace default dev wg0; ip route replace 192.168.9.1 dev eth0"
    )
    qube.write("/etc/resolv.conf", lines)
    qube.write("/run/systemd/resolve/resolv.conf", "nameserver 10.139.1.1\nnameserver 10.64.0.3\n")
    assert run_in(qube, qubes_vpn_follow.named) == dict.fromkeys(found, "wg0")


def test_without_a_tunnel_nobody_is_one(qube):
    qube.run("ip link del wg0; ip route replace default dev eth0", check=False)
    qube.write("/etc/resolv.conf", "nameserver 10.64.0.1\n")
    assert run_in(qube, qubes_vpn_follow.named) == {}
