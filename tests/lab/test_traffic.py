# SPDX-License-Identifier: GPL-2.0-or-later
"""Every sender gets its packets onto an open cable; flows and probes measure what happens (R90).

A sender whose packets never leave would make every killswitch look good.
"""

import time
from contextlib import ExitStack

import pytest
from cable import CLOSED, FAR, INTERNET, NEAR, cable
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.capture import Capture
from qubes_vpn_formula.lab.oracle import Oracle
from qubes_vpn_formula.lab.packets import decode
from qubes_vpn_formula.lab.traffic import (
    Echo,
    Flood,
    Flow,
    Job,
    TrafficError,
    new_marker,
    send,
    works,
)

MARKER = new_marker()
pytestmark = pytest.mark.usefixtures("namespaces")
PACKET = IP(src=NEAR[0], dst=INTERNET[0]) / UDP(dport=53) / Raw(MARKER)


@pytest.fixture(scope="module")
def qubes(namespaces):
    with cable() as both:
        yield both


def both_families(*cases):
    """Each case for IPv4 and IPv6: (name, function of the source's and the target's address)."""
    return {
        f"{name}{family}": make(NEAR[at], INTERNET[at])
        for name, make in cases
        for at, family in enumerate((" over IPv4", " over IPv6"))
    }


def pieces(kind, way):
    """One way of cutting a datagram up, by raw sockets or as frames."""

    def jobs(source, to):
        cut = senders.fragments(source, to, 53, MARKER)[kind]
        return [way(*cut)]

    return jobs


def elsewhere(to):
    """An address of the same family that neither qube has."""
    return "2001:db8::66" if ":" in to else "192.0.2.66"


def odd_tcp(source, to):
    return senders.odd_tcp(source, to, 443, MARKER)


def routed(source, to):
    return senders.routed(source, elsewhere(to), 53, MARKER, by=to)


def as_frames(*packets):
    return senders.on_link(*packets, device="eth0")


ONE = both_families(
    ("UDP", lambda _, to: [senders.udp(to, 443, MARKER)]),
    ("large UDP", lambda _, to: [senders.large_udp(to, 443, MARKER)]),
    ("fast open", lambda _, to: [senders.fast_open(to, 443, MARKER)]),
    ("echo", lambda _, to: [senders.echo(to, MARKER)]),
    ("NTP", lambda _, to: [senders.ntp(to, MARKER)]),
    ("DNS", lambda _, to: senders.dns(to, MARKER)[:1]),
    *(
        (name, lambda _, to, number=number: [senders.protocol(to, number, MARKER)])
        for name, number in senders.PROTOCOLS.items()
    ),
    *(
        (f"fragments, {kind}, {way.__name__}", pieces(kind, way))
        for kind in ("in order", "last first", "later ones only", "overlapping", "without ports")
        for way in (senders.with_header, as_frames)
    ),
    *(
        (f"{name}, {way.__name__}", lambda from_, to, do=make, way=way: [way(*do(from_, to))])
        for name, make in (("odd TCP", odd_tcp), ("source routes", routed))
        for way in (senders.with_header, as_frames)
    ),
    ("spoofed", lambda _, to: senders.spoofed(to, 53, MARKER, elsewhere(to))),
)
ONE |= {
    "DHCP": senders.dhcp("eth0", MARKER),
    "what a desktop says": senders.local("eth0", MARKER),
    "neighbours": senders.neighbour("eth0", MARKER, NEAR[1], INTERNET[1]),
    "ARP": [senders.arp("eth0", MARKER)],
    "other frames": senders.other_frames("eth0", MARKER, PACKET),
    "a frame": [as_frames(PACKET)],
    "a frame past the queue": [
        senders.on_link(PACKET, device="eth0", options=[senders.QDISC_BYPASS])
    ],
    "a frame on each device": [senders.on_link(PACKET, device="")],
}


@pytest.fixture(scope="module")
def arrived(qubes, tmp_path_factory):
    """What the sender of each case said, and its marked frames: one capture for all."""
    near, far = qubes
    said, file = {}, tmp_path_factory.mktemp("capture") / "all.pcap"
    with Capture(near, far, "vif1.0", file) as capture:
        for name, jobs in ONE.items():
            tag = Job("link", [b"case " + name.encode()], senders.BROADCAST, protocol=0x88B6)
            said[name] = send(near, tag, *jobs)
        captured = capture.finish()
    assert captured.trouble == ""
    cases, now = {name: [] for name in ONE}, None
    for frame in captured.frames:
        if frame.data[12:14] == b"\x88\xb6":
            now = frame.data[14 + len("case ") :].decode()
        elif now and MARKER in frame.data:
            cases[now].append(decode(frame.data))
    return {name: (said[name], packets) for name, packets in cases.items()}


@pytest.mark.parametrize("name", ONE)
def test_a_sender_gets_out_of_an_open_qube(arrived, name):
    sent, packets = arrived[name]
    assert sent.errors == {}
    assert sent.packets == 1 + sum(len(job.data) for job in ONE[name])  # and the case's name
    # TCP sends again; what the kernel cuts up is more frames than were handed over.
    assert len(packets) >= sum(MARKER in data for job in ONE[name] for data in job.data)


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_a_connection_carries_its_data(qubes, family, tmp_path):
    near, far = qubes
    with Echo(far, INTERNET[family], 443) as echo:
        with Capture(near, far, "vif1.0", tmp_path / "cell.pcap") as capture:
            sent = send(near, *senders.basic(INTERNET[family], MARKER))
            captured = capture.finish()
        assert echo.stop() == 2
    assert (sent.packets, sent.errors) == (3, {})
    kinds = {decode(frame.data).protocol for frame in captured.marked(MARKER)}
    assert kinds == ({17, 6, 58} if family else {17, 6, 1})


def test_what_nftables_refuses_is_counted_apart():
    """R41: EPERM is a packet that was tried and did not leave."""
    with cable() as (near, _):
        near.run(
            "nft 'table inet t { chain c { type filter hook output priority 0; policy drop; }; }'"
        )
        assert send(near, senders.udp(INTERNET[0], 53, MARKER, count=3)).errors == {"EPERM": 3}
        assert send(near, senders.tcp(INTERNET[0], 443, MARKER)).packets == 0
        # A packet socket is below netfilter's output hook.
        assert send(near, as_frames(PACKET)).packets == 1


def test_nothing_to_send_is_an_error(qubes):
    with pytest.raises(TrafficError):
        send(qubes[0], Job("udp", [], INTERNET[0], 53))


def test_a_flood_keeps_its_rate(qubes):
    with Flood(qubes[0], senders.udp(INTERNET[0], 9, MARKER, rate=2000)) as flood:
        time.sleep(1)
        sent = flood.stop()
    assert 1200 < sent.packets < 3500  # a loaded machine falls behind and catches up


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_what_works_works_without_loss(qubes, family):
    near, far = qubes
    with Echo(far, INTERNET[family], 443):
        result = works(near, INTERNET[family], 443, MARKER)
    assert {name: (one.sent, one.loss) for name, one in result.items()} == {
        "tcp": (50, 0),
        "udp": (50, 0),
    }


def test_what_does_not_work_is_seen(qubes):
    result = works(qubes[0], INTERNET[0], 444, MARKER, messages=5, wait=0.3)
    assert result["tcp"].loss == 1
    assert result["udp"].loss == 1


def test_loss_is_measured():
    """R90: half of the datagrams are dropped on the way back."""
    with cable() as (near, far), Echo(far, INTERNET[0], 443):
        near.run(
            "nft 'table inet t { chain c { type filter hook input priority 0;"
            " udp sport 443 numgen inc mod 2 0 drop; }; }'"
        )
        result = works(near, INTERNET[0], 443, MARKER, messages=40, wait=0.5)
    assert result["udp"].loss == 0.5
    assert result["tcp"].loss == 0


def test_a_flow_goes_on_through_an_interruption():
    with ExitStack() as stack:
        near, far = stack.enter_context(cable())
        stack.enter_context(Echo(far, INTERNET[0], 443))
        with Flow(near, INTERNET[0], 443, MARKER, wait=3) as flow:
            near.run(CLOSED)
            time.sleep(0.5)
            near.run("nft delete table inet t")
            time.sleep(0.5)
            result = flow.stop()
    assert result["udp"].errors["EPERM"] > 10
    assert 0.3 < result["udp"].gap < 2
    assert result["tcp"].loss == 0
    assert result["tcp"].gap > 0.3


def test_a_flow_that_was_never_there_is_an_error(qubes):
    with pytest.raises(TrafficError):
        Flow(qubes[0], INTERNET[0], 444, MARKER, wait=0.5)


def test_a_cell_without_rules_leaks(qubes, tmp_path):
    """R90: all the parts together, on a qube without any killswitch."""
    near, far = qubes
    with Capture(near, far, "vif1.0", tmp_path / "cell.pcap") as capture:
        send(near, *senders.basic(INTERNET[0], MARKER), *senders.basic(FAR[1], MARKER))
        verdict = Oracle([], MARKER).judge(capture.finish())
    assert verdict.outcome == "LEAK"
    assert len(verdict.leaks) >= 6
