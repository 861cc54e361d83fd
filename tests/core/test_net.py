# SPDX-License-Identifier: GPL-2.0-or-later
"""Destinations: from the pillar's text to a rule that qubesd takes, and back."""

import contextlib
import ipaddress
import socket
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import qubes_vpn_net
from qubes_vpn_net import NotADestination


def taken_as(rule):
    """*rule* as qubesd hands it back; ValueError where it answers with silence.

    Grammar, limits and order of the options: qubes-core-admin 4.3.50 ``qubes/firewall.py``.
    """
    options = {}
    for option in rule.split(" "):
        key, value = option.split("=", 1)
        if not set(value) <= set(string.ascii_letters + string.digits + ":;,./-_[]"):
            raise ValueError("strange characters")
        key = "dsthost" if key in ("dst4", "dst6") else key
        if key in options:
            raise ValueError("set twice")
        options[key] = _OPTIONS[key](value)
    if "action" not in options:
        raise ValueError("no action")
    if "dstports" in options and options.get("proto") not in ("proto=tcp", "proto=udp"):
        raise ValueError("ports without tcp or udp")
    order = ("action", "dsthost", "proto", "specialtarget", "dstports")
    return " ".join(options[key] for key in order if key in options)


def _choice(key, *values):
    def take(value):
        if value not in values:
            raise ValueError(value)
        return f"{key}={value}"

    return take


def _host(value):
    address, slash, bits = value.partition("/")
    for family, key, width in ((socket.AF_INET6, "dst6", 128), (socket.AF_INET, "dst4", 32)):
        try:
            socket.inet_pton(family, address)
        except OSError:
            continue
        if slash and not (bits.isdigit() and int(bits) <= width):
            raise ValueError("bad prefix length")
        return f"{key}={address}/{bits or width}"
    if slash or not set(value) <= set(string.ascii_lowercase + string.digits + "-._"):
        raise ValueError("bad host")
    return f"dsthost={value}"


def _ports(value):
    first, _, last = value.partition("-")
    first, last = int(first), int(last or first)
    if not 0 <= first <= last < 65536:
        raise ValueError("bad ports")
    return f"dstports={first}-{last}"


_OPTIONS = {
    "action": _choice("action", "accept", "drop"),
    "proto": _choice("proto", "tcp", "udp", "icmp"),
    "specialtarget": _choice("specialtarget", "dns"),
    "dsthost": _host,
    "dstports": _ports,
}


@st.composite
def networks(draw):
    """A network in numbers, as the pillar has it."""
    version = draw(st.sampled_from([4, 6]))
    bits = draw(st.integers(0, 32 if version == 4 else 128))
    address = draw(st.ip_addresses(v=version))
    network = ipaddress.ip_network(f"{address}/{bits}", strict=False)
    text = str(network.network_address) if bits == network.max_prefixlen else str(network)
    return f"[{text}]" if version == 6 else text


label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
names = (
    st.lists(label, min_size=1, max_size=3)
    .map(".".join)
    .filter(lambda name: not name.rpartition(".")[2].isdigit())
)
port = st.integers(1, 65535)
ports = (
    st.tuples(port, port)
    .map(sorted)
    .map(lambda pair: str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}-{pair[1]}")
)
protocols = st.sampled_from(["tcp", "udp"])
destinations = st.one_of(
    st.sampled_from(["dns", "icmp"]),
    st.builds("{}:{}/{}".format, st.one_of(networks(), names), ports, protocols),
)
#: What looks like a destination, more or less.
near_misses = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="[]:/.-_%*0123456789abcxudpt \n", max_size=40),
    st.builds(
        "{}:{}/{}".format,
        st.text(alphabet="[]:/.-_%*0129afxA\n", max_size=30),
        st.text(alphabet="-0123456789٣", max_size=7),
        st.sampled_from(["tcp", "udp", "icmp", "TCP", "tcp\n", ""]),
    ),
)


@given(text=destinations)
def test_a_destination_reads_back_as_it_was_written(text):
    assert qubes_vpn_net.destination(text).text == text


@given(text=destinations)
def test_qubesd_takes_its_rule_and_hands_it_back_unchanged(text):
    rule = qubes_vpn_net.destination(text).rule
    assert taken_as(rule) == rule


@settings(max_examples=300)
@given(text=near_misses)
@example("[fe80::1%eth0]:443/tcp")
@example("[[::1]:443/tcp")
@example("192.0.2.1:٣/tcp")
@example("192.0.2.0/255.255.255.0:1/tcp")
@example("[::ffff:192.0.2.1]:1/tcp")
def test_whatever_is_accepted_is_a_rule_that_qubesd_takes(text):
    """A rule that it does not take is answered with silence, and blocks nothing."""
    found = None
    with contextlib.suppress(NotADestination):
        found = qubes_vpn_net.destination(text)
    if found is None:
        return
    assert taken_as(found.rule) == found.rule
    assert qubes_vpn_net.destination(found.text) == found


@given(text=st.one_of(destinations, near_misses))
def test_an_endpoint_is_numeric_and_no_wider_than_a_provider(text):
    """R35: never a host name; R12: never the whole internet."""
    try:
        found = qubes_vpn_net.endpoint(text)
    except NotADestination:
        return
    network = ipaddress.ip_network(found.host)
    assert network.prefixlen >= (16 if network.version == 4 else 32)


@pytest.mark.parametrize(
    "text",
    [
        "192.0.2.1:1/udp",
        "[2001:db8::1]:1/udp",
        "192.168.1.1:1/udp",
        "10.136.0.0/16:1/udp",
        "10.140.0.0/16:1/udp",
        "[fd09:24ef:4178::1]:1/udp",
        "[64:ff9b::c000:201]:1/udp",
        "223.255.255.255:1/udp",
    ],
)
def test_an_endpoint_may_be_private_or_beside_qubes_own(text):
    """At home, at work, behind NAT64, and documentation's; what may not: endpoint-no-server.yml."""
    assert qubes_vpn_net.endpoint(text).text == text


@given(texts=st.lists(destinations, max_size=20))
def test_the_size_is_what_is_sent(texts):
    """Each rule with its newline, in ASCII, and the closing drop last (R11, R12)."""
    lines = qubes_vpn_net.rules(map(qubes_vpn_net.destination, texts))
    payload = "".join(f"{line}\n" for line in lines).encode("ascii")
    assert qubes_vpn_net.rules_size(lines) == len(payload)
    assert lines[-1] == "action=drop"


def test_the_largest_list_fits_one_request():
    """qubesd hangs up above 65,536 bytes, the line before the rules included."""
    line = b"admin.vm.firewall.Set+ dom0 name " + b"q" * 31 + b"\0"
    assert len(line) + qubes_vpn_net.FIREWALL_LIMIT == 65536


@pytest.mark.parametrize(
    "bad", ["proto=tcp", "action=accept dstports=1", "action=accept dsthost=A"]
)
def test_the_grammar_above_refuses(bad):
    """Otherwise the tests above would prove nothing."""
    with pytest.raises(ValueError, match=r"no action|ports without|bad host"):
        taken_as(bad)


#: What is written for an allowlist, and what the error says to write.
MEANT = {
    "www.bank.example": "Write www.bank.example:443/tcp, or another port.",
    "www.bank.example.": "Write www.bank.example:443/tcp, or another port.",
    "www.bank.example:8443": "Write www.bank.example:8443/tcp, or another port.",
    "https://www.Bank.example/login?a=b": "Write www.bank.example:443/tcp, or another port.",
    "203.0.113.0/24": "Write 203.0.113.0/24:443/tcp, or another port.",
    "[2001:db8::9]": 'Write "[2001:db8::9]:443/tcp", or another port.',
    "DNS": "Write dns.",
    "bank": 'Write it as in www.bank.example:443/tcp, 203.0.113.9:443/tcp, "[2001:',
    "": "Write it as in www.bank.example:443/tcp",
    "*.bank.example": "List every host by itself, as in www.bank.example:443/tcp;",
    "*.bank.example:443/tcp": "List every host by itself, as in www.bank.example:443/tcp;",
    "192.0.2.1-192.0.2.9:443/tcp": "addresses are as in www.bank.example:443/tcp, 203.0.113.9",
}


@pytest.mark.parametrize("text", MEANT)
def test_an_entry_that_is_none_comes_with_the_text_to_write(text):
    """R11. A name whose last part is a number would never resolve, which blocks all of the qube."""
    with pytest.raises(NotADestination) as refused:
        qubes_vpn_net.destination(text)
    assert refused.value.fix.startswith(MEANT[text]) or MEANT[text] in refused.value.fix
    with pytest.raises(NotADestination, match=r"ADDRESS:PORT|a wildcard|host name|not an endpoint"):
        qubes_vpn_net.endpoint(text)


@given(text=st.one_of(near_misses, names, networks()))
def test_what_is_said_to_be_meant_is_right(text):
    fix = ""
    try:
        qubes_vpn_net.destination(text)
    except NotADestination as refused:
        fix = refused.fix
    if fix.endswith(", or another port."):
        meant = fix.removeprefix("Write ").removesuffix(", or another port.").strip('"')
        assert qubes_vpn_net.destination(meant)
