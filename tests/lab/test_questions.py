# SPDX-License-Identifier: GPL-2.0-or-later
"""Made-up name servers, questions to them, and a judge that finds what is in clear (R63, R90)."""

import base64
import os
import struct
from pathlib import Path

import pytest
from cable import cable
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.utils import RawPcapWriter

from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.capture import Capture, Captured, read
from qubes_vpn_formula.lab.debian import NotReachable
from qubes_vpn_formula.lab.nameservers import ANSWERS, Nameservers
from qubes_vpn_formula.lab.questions import Asking, Eavesdropper, Question, ask
from qubes_vpn_formula.lab.traffic import send

pytestmark = [pytest.mark.usefixtures("namespaces"), pytest.mark.timeout(300)]

WORD = "word-of-the-lab"
NAME = f"{WORD}.example.org"
SERVERS = ("198.51.100.7", "2001:db8::7")


@pytest.fixture(scope="module")
def qubes(namespaces):
    with cable() as both:
        yield both


@pytest.fixture(scope="module")
def nameservers(qubes, tmp_path_factory):
    try:
        made = Nameservers(tmp_path_factory.mktemp("names"), qubes[1])
    except NotReachable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"Debian 13 cannot be had: {error}")
    made.serve("plain")
    return made


def judged(qubes, file: Path, do):
    with Capture(*qubes, "vif1.0", file) as capture:
        done = do()
        return done, Eavesdropper(WORD).judge(capture.finish())


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("protocol", ["udp", "tcp", "tls"])
def test_a_question_in_clear_is_answered_and_found(qubes, nameservers, tmp_path, server, protocol):
    """The planted leak: whoever gets out is answered, and each way is seen on the cable."""
    question = Question(server, NAME, protocol)
    (answer,), verdict = judged(qubes, tmp_path / "a.pcap", lambda: ask(qubes[0], question))
    assert answer.addresses == [ANSWERS["plain"]], answer
    assert verdict.outcome == "LEAK"
    reasons = {"udp": {"a name in clear"}, "tls": {"port 853"}}
    found = {leak.reason for leak in verdict.leaks}
    assert found == reasons.get(protocol, {"a name in clear", "port 53"})


@pytest.mark.parametrize("server", SERVERS)
def test_a_name_is_found_on_any_port_and_in_any_case(qubes, tmp_path, server):
    query = bytes(DNS(rd=1, qd=DNSQR(qname=NAME.upper())))
    job = senders.udp(server, 443, query)
    _, verdict = judged(qubes, tmp_path / "a.pcap", lambda: send(qubes[0], job))
    assert [leak.reason for leak in verdict.leaks] == ["a name in clear"]


def test_an_answer_that_goes_out_is_found_too(qubes, tmp_path):
    job = senders.udp(SERVERS[0], 4000, b"answer", source=("", 53))
    _, verdict = judged(qubes, tmp_path / "a.pcap", lambda: send(qubes[0], job))
    assert [leak.reason for leak in verdict.leaks] == ["port 53"]


def test_only_the_tunnels_resolver_may_be_asked_and_not_for_the_word(qubes, tmp_path):
    jobs = [
        senders.udp(server, 53, data)
        for server in SERVERS
        for data in (b"of the VPN qube itself", WORD.encode())
    ]
    with Capture(*qubes, "vif1.0", tmp_path / "a.pcap") as capture:
        send(qubes[0], *jobs)
        verdict = Eavesdropper(WORD, but=SERVERS[0]).judge(capture.finish())
    reasons = [leak.reason for leak in verdict.leaks]
    assert reasons == ["a name in clear", "port 53", "a name in clear"]


def test_what_is_no_dns_is_not_taken_for_it(qubes, tmp_path):
    jobs = senders.basic(SERVERS[0], b"nothing of interest")
    _, verdict = judged(qubes, tmp_path / "a.pcap", lambda: send(qubes[0], *jobs))
    assert (verdict.outcome, verdict.frames >= 4) == ("closed", True)


def test_it_listens_where_there_is_no_ethernet(tmp_path):
    """The far end of a tunnel."""
    file = tmp_path / "tun.pcap"
    with RawPcapWriter(str(file), linktype=101) as writer:
        writer.write(bytes(IP(dst=SERVERS[0]) / UDP(sport=4000, dport=53) / b"x"))
        writer.write(bytes(IPv6(dst=SERVERS[1]) / UDP(sport=4000, dport=443) / b"x"))
    verdict = Eavesdropper(WORD).judge(Captured(tuple(read(file))))
    assert [leak.packet.destination_port for leak in verdict.leaks] == [53]
    assert verdict.frames == 2


def test_nobody_answers_where_nobody_listens(qubes, nameservers):
    nameservers.vanish("plain")
    try:
        silent = Question(SERVERS[0], NAME, wait=0.2)
        refused, waited = ask(qubes[0], Question(SERVERS[0], NAME, "tcp"), silent)
        assert (refused.error, refused.code) == ("ConnectionRefusedError", None)
        assert refused.addresses == waited.addresses == []
        asking = Asking(qubes[0], silent, every=0.02, for_=20)
    finally:
        nameservers.serve("plain")
    assert asking.answer().addresses == [ANSWERS["plain"]]


def test_a_stamp_says_what_it_stands_for(nameservers):
    """By the specification's own layout, read back."""
    text = nameservers.stamps["doh"].removeprefix("sdns://")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    assert struct.unpack_from("<BQ", data) == (2, 7)
    assert data[9:].startswith(b"\x11198.51.100.54:443\x00\x0fdoh.lab.example\x0a/dns-query")


def test_the_list_and_its_signature_belong_together(nameservers, tmp_path):
    text, signature = nameservers.signed_list("dnscrypt")
    assert nameservers.stamps["dnscrypt"] in text
    (tmp_path / "list").write_text(text)
    (tmp_path / "list.minisig").write_text(signature)
    verify = ["-V", "-q", "-P", nameservers.minisign_key, "-m"]
    nameservers._tool("minisign", *verify, str(tmp_path / "list"))
    (tmp_path / "list").write_text(text + "\n")
    with pytest.raises(Exception, match="minisign"):
        nameservers._tool("minisign", *verify, str(tmp_path / "list"))
