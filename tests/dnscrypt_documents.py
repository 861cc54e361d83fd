# SPDX-License-Identifier: GPL-2.0-or-later
"""Made-up settings of a resolver's dnscrypt-proxy, as pillars have them: all of them right."""

import base64
import ipaddress

from hypothesis import strategies as st

#: A key that is as long as one, and signs nothing.
MINISIGN_KEY = base64.b64encode(b"Ed" + bytes(range(40))).decode()


def stamp(kind, address, *fields):
    """A stamp by the grammar of dnscrypt.info/stamps-specifications; a relay's without fields."""
    data = bytes([kind]) + (b"" if kind == 0x81 else (7).to_bytes(8, "little"))
    for field in (address.encode(), *fields):
        data += bytes([len(field)]) + field
    return "sdns://" + base64.urlsafe_b64encode(data).decode().rstrip("=")


def server(address, key=b"k" * 32, provider="2.dnscrypt-cert.lab.example"):
    return stamp(0x01, address, key, provider.encode())


def doh(address, host="doh.lab.example", digest=b"", path="/dns-query"):
    return stamp(0x02, address, digest, host.encode(), path.encode())


def relay(address):
    return stamp(0x81, address)


_label = st.sampled_from(["a", "x1", "bank", "a-b", "_tcp", "0", "xn--80ak6aa92e", "l" * 63])
domains = st.lists(_label, min_size=2, max_size=3).map(".".join)
_names = st.sampled_from(["good", "a.b", "x-1", "0", "cs_swe", "n" * 63])
_switch = st.booleans()
_four = st.integers(0x0B000000, 0x63FFFFFF).map(lambda number: str(ipaddress.IPv4Address(number)))
_six = st.integers(0, 2**64 - 1).map(
    lambda tail: f"[{ipaddress.IPv6Address(0x20010DB8 << 96 | tail)}]"
)
_port = st.sampled_from(["", ":443", ":8443", ":5353"])
_four_at, _six_at = (st.builds("{}{}".format, host, _port) for host in (_four, _six))
_at = _four_at | _six_at
_dnscrypt = st.builds(
    server,
    _at,
    st.binary(min_size=32, max_size=32),
    domains.map(lambda name: f"2.dnscrypt-cert.{name}"),
)
_doh = st.builds(doh, _four | _six, domains, st.sampled_from([b"", b"h" * 32]))
patterns = st.one_of(
    domains,
    domains.map("={}".format),
    domains.map("*.{}".format),
    _label.map("{}.*".format),
    _label.map("*{}*".format),
    st.builds("{}?{}*.example".format, _label, _label),
)
_private = st.builds("10.8.{}.{}:{}".format, *[st.integers(0, 255)] * 2, st.integers(1024, 65535))
_networks = st.one_of(
    _four,
    st.builds("{}.{}.0.0/16".format, *[st.integers(1, 255)] * 2),
    st.integers(4, 31).map(lambda bits: f"{ipaddress.ip_network(f'172.31.255.7/{bits}', False)}"),
    st.integers(6, 15).map(lambda bits: f"{ipaddress.ip_network(f'fdff::/{bits}', False)}"),
    st.sampled_from(["2001:db8::/32", "2001:db8:1::/48", "2001:db8:1:2:3:4:5:6"]),
)
_urls = st.sampled_from(
    ["https://lists.example/v3/list.md", "https://192.0.2.9:8443/a~b_c.md", "https://a-b.example/x"]
)
_lists = st.dictionaries(
    st.sampled_from(["mine", "0", "a_b-c", "public-resolvers"]),
    st.fixed_dictionaries(
        {
            "urls": st.lists(_urls, min_size=1, unique=True),
            "minisign_key": st.just(MINISIGN_KEY),
        },
        optional={
            "refresh_hours": st.integers(25, 168),
            "prefix": st.sampled_from(["", "mine-"]),
        },
    ),
    max_size=2,
)
_ttl = st.integers(0, 604800)
_simple = {
    "require_dnssec": _switch,
    "require_nolog": _switch,
    "require_nofilter": _switch,
    "ipv6_servers": _switch,
    "cloak_ttl": _ttl,
    "cloak_ptr": _switch,
    "forwarding": st.dictionaries(domains, st.lists(_private, min_size=1, max_size=2, unique=True)),
    "cloaking": st.dictionaries(patterns, st.lists(_four, min_size=1, max_size=3, unique=True)),
    "blocked_names": st.lists(patterns, unique=True, max_size=5),
    "allowed_names": st.lists(patterns, unique=True, max_size=3),
    "blocked_ips": st.lists(_networks, unique=True, max_size=3),
    "blocked_query_response": st.sampled_from(["hinfo", "refused"]),
    "reject_ttl": _ttl,
    "block_ipv6": _switch,
    "block_unqualified": _switch,
    "block_undelegated": _switch,
    "listen_ipv6": _switch,
    "cache": _switch,
    "cache_size": st.integers(16, 1000000),
    "lb_strategy": st.sampled_from(["first", "p2", "ph", "random"]),
    "lb_estimator": _switch,
    "timeout": st.integers(500, 30000),
    "keepalive": st.integers(1, 3600),
    "max_clients": st.integers(1, 100000),
    "cert_refresh_minutes": st.integers(60, 1440),
    "force_tcp": _switch,
    "http3": _switch,
    "ephemeral_keys": _switch,
    "query_log": _switch,
    "nx_log": _switch,
    "log_level": st.sampled_from(["info", "notice", "warning", "error", "critical"]),
}


@st.composite
def documents(draw, lists=True):
    """The value of `dnscrypt`.  lists: whether it may have some."""
    document = draw(st.fixed_dictionaries({}, optional=_simple))
    found = draw(_lists) if lists and draw(_switch) else {}
    if found:
        document["lists"] = found
    if draw(_switch):
        low, high = sorted(draw(st.tuples(_ttl, _ttl)))
        document |= {"cache_min_ttl": low, "cache_max_ttl": high}
    if draw(_switch):
        document["servers"] = draw(
            st.dictionaries(_names, _dnscrypt | _doh, min_size=1, max_size=3)
        )
        if draw(_switch):
            names = st.sampled_from(sorted(document["servers"]))
            document["server_names"] = draw(st.lists(names, min_size=1, unique=True))
    return document
