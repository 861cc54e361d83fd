# SPDX-License-Identifier: GPL-2.0-or-later
"""The resolver in this qube has answered when it has asked the other side, now (R52)."""

import contextlib
import time
from pathlib import Path
from subprocess import PIPE

import pytest
from in_qube import run_in, skip_where_impossible
from scapy.layers.dns import DNS, DNSQR, DNSRR

import qubes_vpn_dns_ask as dns_ask
from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.traffic import Resolver

NUMBER = b"\x12\x34"
ASKED = DNSQR(qname="abcdefghijklmnopqrst.", qtype="NS")
ALL = "0.0.0.0"  # noqa: S104 - of a network of its own
MADE_UP = DNSRR(rrname=ASKED.qname, type="NS", rdata="ns.example")


def said(**fields):
    """What is made of a message, as scapy writes it."""
    usual = {"id": 0x1234, "qr": 1, "rd": 1, "ra": 1, "qd": ASKED, "rcode": "name-error"}
    return dns_ask._wrong(bytes(DNS(**usual | fields)), {NUMBER: bytes(ASKED)})


def test_that_there_is_no_such_name_is_the_answer():
    assert said() is None
    assert said(rcode="ok") is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"rcode": "server-failure"}, "it answers SERVFAIL"),
        ({"rcode": "refused"}, "it answers REFUSED"),
        ({"rcode": 9}, "it answers with error 9"),
        ({"rcode": "ok", "an": MADE_UP}, "it makes up answers to names that there are not"),
        ({"id": 0x1235}, ""),
        ({"qr": 0}, ""),
        ({"qd": DNSQR(qname="b.", qtype="NS")}, ""),
        ({"qd": []}, ""),
    ],
    ids=str,
)
def test_what_else_comes_back_is_none(fields, told):
    assert said(**fields) == told


def test_each_question_is_about_another_name():
    assert len({dns_ask._question() for _ in range(50)}) == 50


@pytest.fixture
def qube():
    skip_where_impossible()
    with Qube("sys-dns") as qube:
        qube.run("ip link set lo up")
        yield qube


def timed(seconds):
    begin = time.monotonic()
    return dns_ask.ask(seconds), time.monotonic() - begin


def test_a_resolver_that_listens_everywhere_is_heard_at_once(qube):
    with Resolver(qube, ALL, "192.0.2.1") as resolver:
        why, took = run_in(qube, timed, 5)
        assert (why, took < 0.4) == (None, True)
        assert resolver.stop() == 1  # the name that is not there; the root is no name


def test_one_that_says_nothing_of_any_name_is_no_resolver(qube):
    with Resolver(qube, ALL, "empty"):
        assert run_in(qube, dns_ask.ask, 1) == "it does not know the root's name servers"


def test_one_for_the_qubes_own_programs_is_not_one_for_clients(qube):
    """So lists can be fetched by a proxy that clients never reach."""
    with Resolver(qube, "127.0.0.1", "192.0.2.1"):
        assert run_in(qube, dns_ask.ask, 1) == "nothing listens on port 53"
        assert run_in(qube, dns_ask.random_name, 1, dns_ask.OWN) is None


def test_a_question_that_is_lost_is_asked_again_soon_and_then_less_often(qube):
    """So that a resolver that has just become able to answer is found at once."""
    with Resolver(qube, ALL, "192.0.2.1", 3):
        why, took = run_in(qube, timed, 5)
    assert (why, took < 1) == (None, True)
    with Resolver(qube, ALL, "refused") as resolver:
        assert run_in(qube, dns_ask.ask, 3) == "it answers REFUSED"
        assert 5 < resolver.stop() < 16


def test_who_waits_for_one_that_starts_tries_often_at_first():
    """R52: clients wait for this."""
    times, begin = [], time.monotonic()

    def nobody(_):
        times.append(time.monotonic() - begin)
        return "nothing listens on port 53"

    assert dns_ask.wait(1, nobody) == "nothing listens on port 53"
    assert 1 <= time.monotonic() - begin < 2
    assert len([at for at in times if at < 0.5]) > 8
    assert dns_ask.wait(60, lambda _: None) is None


def test_one_that_is_slow_and_remembers_nothing_answers(qube):
    """`cache: false`, behind a tunnel as slow as this: both are asked for from the beginning."""
    with slow(qube, 3.5):
        why, took = run_in(qube, timed, 11)
    assert (why, 3.4 < took < 6) == (None, True)


@contextlib.contextmanager
def slow(qube, seconds):
    """A name server that takes so long for each answer."""
    folder = str(Path(senders.__file__).parent / "inside")
    code = f"""
import sys, threading
sys.path.insert(0, {folder!r})
import resolver
one = resolver.Resolver({ALL!r}, "192.0.2.1", 0)
print("listening", flush=True)
while True:
    question, client = one.datagrams.recvfrom(65535)
    threading.Timer({seconds}, one.datagrams.sendto, (one.reply(question), client)).start()
"""
    with qube.popen(["python3", "-Ic", code], stdout=PIPE, text=True) as process:
        assert process.stdout.readline() == "listening\n"
        yield
        process.kill()


def test_one_that_refuses_or_is_silent_does_not_answer(qube):
    with Resolver(qube, ALL, "refused"):
        assert run_in(qube, dns_ask.ask, 1) == "it answers REFUSED"
    with Resolver(qube, ALL, "192.0.2.1", 99):
        why, took = run_in(qube, timed, 1)
    assert (why, 0.9 < took < 2) == ("no answer", True)
    why, took = run_in(qube, timed, 5)
    assert (why, took < 0.5) == ("nothing listens on port 53", True)
