# SPDX-License-Identifier: GPL-2.0-or-later
"""A list of endpoints as the killswitch reads it, and as elements of its sets (R35, R45)."""

import contextlib
import ipaddress
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qubes_vpn_net
from qubes_vpn_endpoints import NotEndpoints, elements, read, write


@st.composite
def destinations(draw):
    """An endpoint close to the others, so that many of them overlap; as a user writes it."""
    network = draw(st.sampled_from(["192.0.2.0/28", "2001:db8::/124"]))
    network = ipaddress.ip_network(network)
    longer = draw(st.integers(0, 4))
    part = draw(st.sampled_from(list(network.subnets(longer))))
    first = draw(st.integers(1, 12))
    last = draw(st.sampled_from([first, first, first + 2, 65535]))
    host = f"[{part}]" if part.version == 6 else str(part)
    return qubes_vpn_net.endpoint(f"{host}:{first}-{last}/{draw(st.sampled_from(['udp', 'tcp']))}")


def area(element):
    """(lowest and highest address, lowest and highest port, protocol) of an element for nft."""
    hosts, proto, ports = element.split(" . ")
    low, _, high = hosts.partition("-")
    if "/" in hosts:  # nft shows a prefix where it can
        network = ipaddress.ip_network(hosts)
        low, high = str(network[0]), str(network[-1])
    first, _, last = ports.partition("-")
    low, high = (int(ipaddress.ip_address(one)) for one in (low, high or low))
    return low, high, int(first), int(last or first), proto


def wanted(found):
    network = ipaddress.ip_network(found.host)
    return int(network[0]), int(network[-1]), found.first, found.last, found.proto


def points(areas):
    """Every corner, and what is just outside it: no two lists of areas differ without one."""
    for proto in ("udp", "tcp"):
        hosts = {at for low, high, *_ in areas for at in (low - 1, low, high, high + 1)}
        ports = {at for *_, a, b, _ in areas for at in (a - 1, a, b, b + 1)}
        yield from itertools.product(hosts, ports, [proto])


def holds(areas, point):
    host, port, proto = point
    return sum(a <= host <= b and c <= port <= d and proto == p for a, b, c, d, p in areas)


@settings(max_examples=300)
@given(st.lists(destinations(), max_size=8))
def test_elements_admit_exactly_what_is_listed_and_never_overlap(found):
    """nft refuses an interval set in which two elements overlap."""
    made = elements(found)
    for version in (4, 6):
        asked = [wanted(one) for one in found if one.version == version]
        exact = [area(one) for one in getattr(made, f"endpoints{version}")]
        ranges = [area(one) for one in getattr(made, f"ranges{version}")]
        for point in points(asked):
            assert bool(holds(asked, point)) == bool(holds(exact + ranges, point)), point
            assert holds(ranges, point) <= 1, point
            assert holds(exact, point) <= 1, point
        assert all((a, c) == (b, d) for a, b, c, d, _ in exact)


@given(st.lists(destinations(), min_size=1, max_size=8))
def test_what_is_written_is_read_again(found):
    assert read(write(found).encode()) == found


GOOD = {
    "plain": b"192.0.2.1:51820/udp\n",
    "no final newline": b"192.0.2.1:51820/udp",
    "as on Windows": b"192.0.2.1:51820/udp\r\n\r\n",
    "comments": b"# mine\n\n  192.0.2.1:51820/udp\t# Stockholm\n",
}


@pytest.mark.parametrize("name", GOOD)
def test_lines_may_end_in_any_way(name):
    assert [found.text for found in read(GOOD[name])] == ["192.0.2.1:51820/udp"]


BAD = {
    "nothing": (b"", "e: no endpoint in it"),
    "comments only": (b"# 192.0.2.1:51820/udp\n", "e: no endpoint in it"),
    "a bad line": (b"192.0.2.1:51820/udp\nx\n", "e:2: 'x' is not ADDRESS:PORT/PROTOCOL"),
    "everything": (b"0.0.0.0/0:1-65535/udp\n", "e:1: 0.0.0.0/0 is too wide"),
    "everything, IPv6": (b"[::/0]:1/udp\n", "e:1: ::/0 is too wide"),
    "host name": (b"se.example:51820/udp\n", "e:1: 'se.example' is a host name"),
    "nft's own words": (b"192.0.2.1:1/udp, 0.0.0.0/0 . udp . 1\n", "e:1: "),
    "nft's own words, braces": (b"192.0.2.1:1/udp }; flush ruleset\n", "e:1: "),
    "carriage return inside": (b"192.0.2.1:1/udp\r192.0.2.2:1/udp\n", "e:1: "),
    "form feed": (b"\x0c192.0.2.1:1/udp\n", "e:1: "),
    "NUL": (b"192.0.2.1:1/udp\x00\n", "e:1: "),
    "BOM": (b"\xef\xbb\xbf192.0.2.1:1/udp\n", "e:1: not plain text"),
    "UTF-16": ("192.0.2.1:1/udp\n".encode("utf-16"), "e:1: not plain text"),
    "other digits": ("192.0.2.\u0661:1/udp\n".encode(), "e:1: not plain text"),
    "latin-1 on line 2": (b"192.0.2.1:1/udp\n\xe9\n", "e:2: not plain text"),
    "a byte too many": (b"#" * (8 * 2**20 + 1), "e: larger than 8 MiB"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_list_with_anything_wrong_is_no_list(name):
    data, told = BAD[name]
    with pytest.raises(NotEndpoints) as error:
        read(data, "e")
    assert error.value.problems[0].startswith(told)


def test_many_bad_lines_are_told_in_few_words():
    with pytest.raises(NotEndpoints) as error:
        read(b"x\n" * 100_000, "e")
    assert len(error.value.problems) == 11
    assert error.value.problems[-1].startswith("e: more lines like these")


@given(st.binary(max_size=200))
def test_no_file_breaks_it(data):
    """Whatever it is, it is a list of endpoints or it is told why not."""
    with contextlib.suppress(NotEndpoints):
        assert all(isinstance(one, qubes_vpn_net.Destination) for one in read(data))


def many(count):
    lines = (f"198.{18 + at // 65536}.{at // 256 % 256}.{at % 256}:1/udp" for at in range(count))
    return "\n".join(lines).encode()


def test_most_endpoints_are_100_000():
    with pytest.raises(NotEndpoints, match="more than 100000 endpoints"):
        read(many(100_001))
    assert len(elements(read(b"# a comment is none\n" * 100_001 + many(9))).endpoints4) == 9


def test_prefixes_that_add_up_to_the_whole_net_are_refused():
    """A /16 is an endpoint; hundreds of them are a way round the killswitch."""
    found = [qubes_vpn_net.endpoint(f"203.{at}.0.0/16:1/udp") for at in range(17)]
    assert elements(found[:16]).ranges4 == ("203.0.0.0-203.15.255.255 . udp . 1",)
    with pytest.raises(NotEndpoints, match="cover too much of IPv4"):
        elements(found)
    wide = [qubes_vpn_net.endpoint(f"[2a00:{at:x}::/32]:1/udp") for at in range(17)]
    with pytest.raises(NotEndpoints, match="cover too much of IPv6"):
        elements(wide)
    # The same addresses again, for other ports and protocols, are no more addresses.
    again = [one._replace(first=7, last=9, proto="tcp") for one in found[:16]]
    assert len(elements(found[:16] + again).ranges4) == 2


def test_too_many_ranges_are_refused():
    found = [qubes_vpn_net.endpoint(f"192.0.{at // 256}.{at % 256}:1-65/udp") for at in range(5001)]
    with pytest.raises(NotEndpoints, match="more than 5000 prefixes and port ranges"):
        elements(found)
