# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's reading of frames and its verdicts, held against what scapy makes (R90)."""

import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.l2 import ARP, LLC, Dot1Q, Ether
from scapy.packet import Raw

from qubes_vpn_formula.lab.capture import Captured, Frame
from qubes_vpn_formula.lab.oracle import Endpoint, Oracle
from qubes_vpn_formula.lab.packets import decode

MARKER = b"leak-0123456789"
ENDPOINTS = [
    Endpoint("udp", "203.0.113.5", 51820),
    Endpoint("tcp", "203.0.113.6", 443),
    Endpoint("udp", "192.0.2.0/28", 1000, 2000),
    Endpoint("udp", "2001:db8::5", 51820),
]
LINK = Ether(src="02:00:00:00:00:14", dst="fe:ff:ff:ff:ff:ff")
OURS, OURS6 = "10.137.0.20", "fd09:24ef:4179::a89:14"
FOUR, SIX = IP(src=OURS, dst="203.0.113.5", id=9), IPv6(src=OURS6, dst="2001:db8::5")
TO_ENDPOINT = UDP(sport=4000, dport=51820)
CIPHER = Raw(b"cipher text " * 40)


def frames(*packets) -> Captured:
    return Captured(tuple(Frame(float(at), bytes(LINK / p)) for at, p in enumerate(packets)))


def leaks(*packets) -> list[str]:
    """What the oracle says of packets behind an Ethernet header."""
    return [str(leak) for leak in Oracle(ENDPOINTS, MARKER).judge(frames(*packets)).leaks]


SOLICITATION = IPv6(src=OURS6, dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(tgt="fe80::1")
ALLOWED = {
    "ARP": ARP(pdst="10.138.0.1"),
    "neighbour solicitation": SOLICITATION,
    "neighbour advertisement": IPv6(src=OURS6, dst="fe80::1", hlim=255) / ICMPv6ND_NA(tgt=OURS6),
    "UDP to an endpoint": FOUR / TO_ENDPOINT / CIPHER,
    "with IPv4 options that route nothing": IP(
        src=OURS, dst="203.0.113.5", options=[IPOption(b"\x01")]
    )
    / TO_ENDPOINT,
    "TCP to an endpoint": IP(src=OURS, dst="203.0.113.6") / TCP(dport=443),
    "first of a range": IP(src=OURS, dst="192.0.2.0") / UDP(dport=1000),
    "last of a range": IP(src=OURS, dst="192.0.2.15") / UDP(dport=2000),
    "IPv6 endpoint": SIX / TO_ENDPOINT / CIPHER,
    "behind an extension header": SIX / IPv6ExtHdrDestOpt() / TO_ENDPOINT / CIPHER,
    "an atomic fragment": SIX / IPv6ExtHdrFragment(id=5) / TO_ENDPOINT / CIPHER,
}
LEAKS = {
    "another address": IP(src=OURS, dst="203.0.113.4") / TO_ENDPOINT,
    "another port": FOUR / UDP(dport=51821),
    "the right port as source": FOUR / UDP(sport=51820, dport=53),
    "another protocol": FOUR / TCP(dport=51820),
    "beside a range of addresses": IP(src=OURS, dst="192.0.2.16") / UDP(dport=1000),
    "below a range of ports": IP(src=OURS, dst="192.0.2.1") / UDP(dport=999),
    "above a range of ports": IP(src=OURS, dst="192.0.2.1") / UDP(dport=2001),
    "UDP-Lite with the right port": IP(src=OURS, dst="203.0.113.5", proto=136)
    / Raw(bytes(TO_ENDPOINT)),
    "echo to an endpoint": FOUR / ICMP(),
    "ICMPv6 echo to an endpoint": SIX / ICMPv6EchoRequest(),
    "a router advertisement": IPv6(src=OURS6, dst="ff02::1", hlim=255) / ICMPv6ND_RA(),
    "a solicitation from afar": IPv6(src=OURS6, dst="2001:db8::9", hlim=64)
    / ICMPv6ND_NS(tgt="::1"),
    "a solicitation behind a header": IPv6(src=OURS6, dst="ff02::1", hlim=255)
    / IPv6ExtHdrHopByHop()
    / ICMPv6ND_NS(tgt="::1"),
    "ICMPv6 inside IPv4": IP(src=OURS, dst="203.0.113.9", ttl=255, proto=58)
    / Raw(bytes(ICMPv6ND_NS(tgt="::1"))),
    "a tunnel in a tunnel": IP(src=OURS, dst="203.0.113.5") / SIX / TO_ENDPOINT,
    "an IPv4 source route": IP(
        src=OURS, dst="203.0.113.5", options=[IPOption(b"\x83\x07\x04\x09\x09\x09\x09")]
    )
    / TO_ENDPOINT,
    "an IPv6 routing header": SIX / IPv6ExtHdrRouting(addresses=["2001:db8::99"]) / TO_ENDPOINT,
    "a VLAN tag": Dot1Q(vlan=3) / FOUR / TO_ENDPOINT,
    "the marker in the clear to an endpoint": FOUR / TO_ENDPOINT / Raw(MARKER),
    "the marker behind an ARP request": ARP(pdst="10.138.0.1") / Raw(MARKER),
    "the marker behind a solicitation": SOLICITATION / Raw(MARKER),
    "a later fragment alone": fragment(FOUR / TO_ENDPOINT / CIPHER, 200)[1],
    "a first fragment without ports": SIX / IPv6ExtHdrFragment(nh=60, m=1, id=5) / Raw(bytes(8)),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_belongs_on_the_uplink_is_no_leak(name):
    assert leaks(ALLOWED[name]) == []


@pytest.mark.parametrize("name", LEAKS)
def test_what_does_not_is_a_leak(name):
    assert len(leaks(LEAKS[name])) == 1


def test_other_frames_are_leaks():
    """Length instead of an Ethernet type, an unknown type, and less than a header."""
    raw = [
        bytes(LINK)[:12] + b"\x00\x2b" + bytes(LLC()) + bytes(40),
        bytes(LINK)[:12] + b"\x88\xb5xx",
    ]
    captured = Captured(tuple(Frame(0.0, frame) for frame in [*raw, b"short"]))
    assert len(Oracle(ENDPOINTS, MARKER).judge(captured).leaks) == 3


@pytest.mark.parametrize(
    "pieces",
    [
        fragment(FOUR / TO_ENDPOINT / CIPHER, 200),
        fragment6(SIX / IPv6ExtHdrFragment(id=9) / TO_ENDPOINT / CIPHER, 200),
    ],
    ids=["IPv4", "IPv6"],
)
class TestFragments:
    def test_of_an_endpoints_datagram_are_allowed_in_any_order(self, pieces):
        assert len(pieces) > 2
        assert leaks(*pieces) == []
        assert leaks(*pieces[::-1]) == []

    def test_without_the_first_are_leaks(self, pieces):
        assert len(leaks(*pieces[1:])) == len(pieces) - 1

    def test_with_a_second_first_one_to_elsewhere_are_leaks_all(self, pieces):
        """An overlapping fragment must not borrow the good one's name."""
        other = bytes(pieces[0]).replace((51820).to_bytes(2), (53).to_bytes(2), 1)
        other = type(pieces[0])(other)
        assert len(leaks(*pieces, other)) == len(pieces)

    def test_of_another_datagram_are_leaks(self, pieces):
        other = pieces[1].copy()
        if IPv6 in other:
            other[IPv6ExtHdrFragment].id = 10
        else:
            other.id = 10
        assert len(leaks(*pieces, other)) == 1


@pytest.mark.parametrize("packet", [*ALLOWED.values(), *LEAKS.values()], ids=[*ALLOWED, *LEAKS])
def test_cut_off_or_scrambled_frames_raise_nothing(packet):
    """And cut in the headers it is no allowed frame, but for ARP, which has no address to miss."""
    whole, chance = bytes(LINK / packet), random.Random(1)  # noqa: S311 - no secret
    for length in range(len(whole)):
        decode(whole[:length])
    for _ in range(200):
        mixed = bytearray(whole)
        mixed[chance.randrange(12, len(mixed))] = chance.randrange(256)
        str(decode(bytes(mixed)))
    cut = Captured((Frame(0.0, whole[:30]),))
    assert len(Oracle(ENDPOINTS, MARKER).judge(cut).leaks) == (not isinstance(packet, ARP))


def test_a_leak_is_one_line_that_a_person_understands():
    lines = leaks(
        IP(src=OURS, dst="9.9.9.9") / UDP(sport=4000, dport=53) / Raw(b"x" * 20),
        SIX / TCP(sport=4000, dport=443, flags="SA"),
        IP(src=OURS, dst="9.9.9.9") / ICMP() / Raw(MARKER),
        IP(src=OURS, dst="9.9.9.9", proto=47),
        Dot1Q(vlan=3) / FOUR,
    )
    assert lines == [
        "0.000 s: UDP from 10.137.0.20:4000 to 9.9.9.9:53 (DNS), 62 bytes: not to an endpoint",
        "1.000 s: TCP SYN+ACK from [fd09:24ef:4179::a89:14]:4000 to [2001:db8::5]:443, 74 bytes:"
        " not to an endpoint",
        "2.000 s: ICMP echo request from 10.137.0.20 to 9.9.9.9, 57 bytes: carries the marker",
        "3.000 s: GRE from 10.137.0.20 to 9.9.9.9, 34 bytes: not to an endpoint",
        "4.000 s: VLAN, 38 bytes: neither ARP nor IP",
    ]


def test_an_incomplete_capture_is_an_error_but_a_leak_in_it_counts():
    oracle = Oracle(ENDPOINTS, MARKER)
    assert oracle.judge(Captured((), "lost")).outcome == "error"
    assert oracle.judge(Captured(())).outcome == "closed"
    leak = frames(LEAKS["another port"]).frames
    assert oracle.judge(Captured(leak, "lost")).outcome == "LEAK"


def test_an_oracle_that_would_see_everything_or_nothing_is_refused():
    with pytest.raises(ValueError, match="marker"):
        Oracle(ENDPOINTS, b"")
    with pytest.raises(ValueError, match="sctp"):
        Oracle([Endpoint("sctp", "192.0.2.1", 1)], MARKER)
