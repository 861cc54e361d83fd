# SPDX-License-Identifier: GPL-2.0-or-later
"""A resolver has answered when it has answered, and not when something came back (R50, R52)."""

import os
import time
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_qube import run_in, skip_where_impossible
from scapy.layers.dns import DNS, DNSQR, DNSRR

from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.traffic import Resolver
from qubes_vpn_question import ask, is_answer

NUMBER = b"\x12\x34"
ROOT = DNSRR(rrname=".", type="NS", rdata="a.root-servers.net")


def answer(**fields):
    """What a server would say, as scapy writes it."""
    asked = fields.pop("qd", DNSQR(qname=".", qtype="NS"))
    return bytes(DNS(**{"id": 0x1234, "qr": 1, "rd": 1, "ra": 1, "qd": asked, "an": ROOT} | fields))


@pytest.mark.parametrize("good", [{}, {"an": []}, {"tc": 1}, {"aa": 1, "ad": 1}])
def test_an_answer_is_one(good):
    assert is_answer(answer(**good), NUMBER)


@pytest.mark.parametrize(
    "bad",
    [
        {"id": 0x1235},
        {"qr": 0},
        {"rcode": "server-failure"},
        {"rcode": "refused"},
        {"rcode": "name-error", "an": []},
        {"opcode": 2},
        {"qd": DNSQR(qname="a.", qtype="NS")},
        {"qd": DNSQR(qname=".", qtype="A")},
        {"qd": []},
    ],
    ids=str,
)
def test_what_else_comes_back_is_none(bad):
    assert not is_answer(answer(**bad), NUMBER)


@given(st.binary(max_size=64))
def test_any_bytes_are_no_trouble(data):
    assert is_answer(NUMBER + data, NUMBER) in (True, False)
    assert not is_answer(data[:12], NUMBER)


# --- asked on a network of its own


@pytest.fixture(scope="module")
def qube():
    skip_where_impossible()
    with Qube("resolvers") as qube:
        addresses = [f"10.64.0.{number}" for number in range(1, 6)]
        lines = [f"address add {one} dev lo" for one in [*addresses, "fd64::1"]]
        qube.run(["ip", "-batch", "-"], input="\n".join([*lines, "link set lo up"]))
        yield qube


@pytest.fixture
def resolvers(qube):
    """Starts resolvers: `(address, what its answers are, how many questions it does not hear)`."""
    with ExitStack() as stack:
        yield lambda *which: [stack.enter_context(Resolver(qube, *one)) for one in which]


def timed(asked, seconds=3.0, woken_after=None):
    """What :func:`ask` says of *asked*, and how long it took."""
    reading, writing = os.pipe()
    if woken_after is not None and not os.fork():
        time.sleep(woken_after)
        os.write(writing, b"x")
        os._exit(0)
    begin = time.monotonic()
    return ask(asked, seconds, [reading]), time.monotonic() - begin


def test_who_answers_is_told_in_order_and_at_once(qube, resolvers):
    asked = dict.fromkeys(["fd64::1", "10.64.0.2", "10.64.0.1"], "lo")
    resolvers(*((address, "192.0.2.1") for address in asked))
    answered, took = run_in(qube, timed, asked)
    assert answered == list(asked)
    assert took < 0.3


def test_one_that_is_silent_does_not_hold_up_the_others(qube, resolvers):
    resolvers(("10.64.0.1", "192.0.2.1", 9), ("10.64.0.2", "192.0.2.1"), ("10.64.0.3", "refused"))
    asked = dict.fromkeys(["10.64.0.1", "10.64.0.2", "10.64.0.3", "10.64.0.4"], "")
    answered, took = run_in(qube, timed, asked)
    assert answered == ["10.64.0.2"]
    assert took < 1


def test_it_asks_again_and_gives_up(qube, resolvers):
    resolvers(("10.64.0.1", "192.0.2.1", 2))
    answered, took = run_in(qube, timed, {"10.64.0.1": ""})
    assert (answered, 0.25 < took < 1) == (["10.64.0.1"], True)
    answered, took = run_in(qube, timed, {"10.64.0.5": ""}, 0.7)
    assert (answered, 0.6 < took < 1.5) == ([], True)


def test_it_can_be_woken(qube):
    answered, took = run_in(qube, timed, {"10.64.0.5": ""}, 3.0, 0.2)
    assert (answered, took < 1) == ([], True)


def test_by_another_device_and_without_a_way_there_is_no_answer(qube, resolvers):
    resolvers(("10.64.0.1", "192.0.2.1"))
    qube.run("ip link add other type veth peer name end; ip link set other up")
    asked = {"10.64.0.1": "other", "10.64.0.2": "none", "192.0.2.1": ""}
    assert run_in(qube, timed, asked, 0.3)[0] == []
    assert ask({}) == []
