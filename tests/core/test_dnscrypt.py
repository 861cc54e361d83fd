# SPDX-License-Identifier: GPL-2.0-or-later
"""R53: a resolver's dnscrypt-proxy, from its pillar to the texts in its qube.

Whether the real program takes them: tests/lab/test_dnscrypt.py.
"""

import contextlib
import ipaddress
import itertools
import json
import tomllib

import pytest
import yaml
from dnscrypt_documents import MINISIGN_KEY, documents, doh, relay, server, stamp
from hypothesis import example, given
from hypothesis import strategies as st

import qubes_vpn_dnscrypt
import qubes_vpn_dnscrypt_pillar
import qubes_vpn_dnscrypt_stamp
import qubes_vpn_model
from qubes_vpn_problem import PillarError

from .pillars import EXAMPLE, pillar

GOOD, OTHER = server("203.0.113.10"), server("203.0.113.11")
WEB, RELAY = doh("203.0.113.20"), relay("203.0.113.30:443")
LIST = {"urls": ["https://lists.example/mine.md"], "minisign_key": MINISIGN_KEY}


def settings(document=None):
    keys = {} if document is None else {"dnscrypt": document}
    return qubes_vpn_model.build(pillar(resolvers={"sys-dns": keys})).services["sys-dns"].dnscrypt


def texts(document=None):
    return qubes_vpn_dnscrypt.files(settings(document))


def toml(document=None, name="dnscrypt-proxy.toml"):
    return tomllib.loads(texts(document)[name])


def examples(text):
    """The values that pillar.example shows in comments, one after the other: ``{key: value}``."""
    lines = [line[10:] for line in text.splitlines() if line.startswith("        #   ")]
    return yaml.safe_load("\n".join(line.removeprefix("  ") for line in lines))


# --- what is always so


@given(document=documents())
def test_nothing_is_looked_up_or_sent_in_plain(document):
    """R52.  Whatever the pillar says; the qube's own resolver is the proxy itself."""
    for name in texts(document):
        if not name.endswith(".toml"):
            continue
        config = toml(document, name)
        assert config["bootstrap_resolvers"] == []
        assert config["ignore_system_dns"] is True
        assert config["netprobe_timeout"] == 0
        assert config["offline_mode"] is config["odoh_servers"] is False
        assert config["cert_ignore_timestamp"] is False
        assert config["anonymized_dns"]["skip_incompatible"] is True
        assert config["anonymized_dns"]["direct_cert_fallback"] is False
        assert not {"proxy", "http_proxy", "edns_client_subnet", "local_doh"} & set(config)


def test_without_a_word_it_works_behind_any_vpn():
    """Two operators, two protocols, port 443, nothing to look up and no list to be fetched."""
    config = toml()
    stamps = [qubes_vpn_dnscrypt_stamp.read(found["stamp"]) for found in config["static"].values()]
    assert [(found.kind, found.port) for found in stamps] == [("DNSCrypt", 443), ("DoH", 443)]
    assert list(config["static"]) == config["server_names"]
    assert list(texts()) == ["dnscrypt-proxy.toml"]


def test_logs_are_off_and_one_socket_listens_for_both_families():
    config = toml()
    assert not {"query_log", "nx_log", "blocked_names", "blocked_ips"} & set(config)
    assert config["listen_addresses"] == ["[::]:53"]
    assert toml({"listen_ipv6": False})["listen_addresses"] == ["0.0.0.0:53"]


def test_logs_that_are_wanted_are_where_nothing_stays():
    keys = {"query_log": True, "nx_log": True, "blocked_log": True, "blocked_names": ["a.example"]}
    config = toml({**keys, "blocked_ips": ["192.0.2.7"]})
    assert config["query_log"] == {"file": "/var/log/dnscrypt-proxy/query-log.log"}
    assert config["nx_log"] == {"file": "/var/log/dnscrypt-proxy/nx-log.log"}
    for key in ("blocked_names", "blocked_ips"):
        assert config[key]["log_file"] == "/var/log/dnscrypt-proxy/blocked.log"


# --- what the pillar says arrives


@given(document=documents())
def test_every_value_arrives(document):
    """Through JSON, as Salt hands it on; keys have the program's own names."""
    found = settings(document)
    assert qubes_vpn_dnscrypt.files(json.loads(json.dumps(found))) == texts(document)
    config = toml(document)
    renamed = {"ephemeral_keys": "dnscrypt_ephemeral_keys"}
    renamed["cert_refresh_minutes"] = "cert_refresh_delay"
    tables = {"servers", "lists", "forwarding", "cloaking", "listen_ipv6", "log_level", "query_log"}
    tables |= {"nx_log", "blocked_names", "allowed_names", "blocked_ips"}
    for key, value in document.items():
        if key not in tables:
            assert config[renamed.get(key, key)] == value
    shown = {name: {"stamp": text} for name, text in found["servers"].items()}
    assert config.get("static", {}) == shown
    assert config["log_level"] == 1 + ["info", "notice", "warning", "error", "critical"].index(
        found["log_level"]
    )
    for name, keys in document.get("lists", {}).items():
        source = config["sources"][name]
        assert (source["urls"], source["minisign_key"]) == (keys["urls"], keys["minisign_key"])
        assert source["cache_file"] == f"/rw/config/vpn/dns/lists/{name}.md"


@given(text=st.text(st.characters(codec="utf-8")))
@example(text='"\\\n\r\t\x00\x7f\u2028]]')
def test_no_text_ends_its_string(text):
    """No value reaches the file that a pattern has not let through; this is the second wall."""
    written = qubes_vpn_dnscrypt._written({"key": text}, {("static", text): {"stamp": [text]}})
    assert tomllib.loads(written) == {"key": text, "static": {text: {"stamp": [text]}}}


@given(document=documents())
def test_rules_are_lines_of_plain_words(document):
    """What separates fields or begins a comment or a schedule cannot be inside one."""
    found = texts(document)
    rules = {
        "forwarding-rules.txt": [
            (domain, ",".join(servers))
            for domain, servers in document.get("forwarding", {}).items()
        ],
        "cloaking-rules.txt": [
            (name, target)
            for name, targets in document.get("cloaking", {}).items()
            for target in targets
        ],
        "blocked-names.txt": [(name,) for name in document.get("blocked_names", [])],
        "allowed-names.txt": [(name,) for name in document.get("allowed_names", [])],
    }
    for name, expected in rules.items():
        lines = [line for line in found.get(name, "").splitlines() if not line.startswith("#")]
        assert [tuple(line.split()) for line in lines] == expected
        assert not set("#@$\\\"'") & set("".join(lines))


def test_a_rule_file_is_named_where_there_is_one():
    config = toml(
        {
            "forwarding": {"corp.example": ["10.8.0.1:5353"]},
            "cloaking": {"nas.example": "192.168.1.9", "www.example": "safe.example.net"},
            "blocked_names_file": "mine.txt",
            "allowed_names": ["good.example"],
        }
    )
    folder = "/rw/config/vpn/dns"
    assert config["forwarding_rules"] == f"{folder}/forwarding-rules.txt"
    assert config["cloaking_rules"] == f"{folder}/cloaking-rules.txt"
    assert config["blocked_names"] == {"blocked_names_file": f"{folder}/mine.txt"}
    assert config["allowed_names"] == {"allowed_names_file": f"{folder}/allowed-names.txt"}
    found = settings({"blocked_names_file": "mine.txt"})
    assert qubes_vpn_dnscrypt.own_files(found) == [f"{folder}/mine.txt"]


# --- addresses that no answer may hold


def _blocks(lines, address):
    """As plugin_block_ip.go of dnscrypt-proxy 2.1.8 compares: whole groups of the text."""
    text = str(address)
    for line in lines:
        if not line.endswith("*"):
            if line == text:
                return True
            continue
        begin = line[:-1].rstrip(".:")
        if text.startswith(begin) and text[len(begin) : len(begin) + 1] in (".", ":", ""):
            return True
    return False


@given(bits=st.integers(4, 32), inside=st.integers(0, 2**32 - 1), outside=st.integers(0, 2**32 - 1))
def test_a_network_is_blocked_and_no_more(bits, inside, outside):
    network = ipaddress.ip_network((inside, bits), strict=False)
    lines = qubes_vpn_dnscrypt_pillar.ip_lines(network)
    assert _blocks(lines, ipaddress.ip_address(inside))
    address = ipaddress.ip_address(outside)
    assert _blocks(lines, address) == (address in network)


@given(
    bits=st.integers(6, 128),
    inside=st.integers(1, 2**128 - 1),
    outside=st.integers(2**32, 2**128 - 1),
)
def test_an_ipv6_network_is_blocked_or_refused(bits, inside, outside):
    network = ipaddress.IPv6Network((inside, bits), strict=False)
    lines = qubes_vpn_dnscrypt_pillar.ip_lines(network)
    if lines:
        assert _blocks(lines, network[0])
        assert _blocks(lines, network[-1])
        address = ipaddress.IPv6Address(outside)
        assert _blocks(lines, address) == (address in network)
    else:
        assert bits < 128


# --- lists


def test_a_list_of_the_projects_needs_its_name_only():
    source = toml({"lists": {"public-resolvers": {}}})["sources"]["public-resolvers"]
    assert source["minisign_key"] == "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
    assert all(url.endswith("/v3/public-resolvers.md") for url in source["urls"])
    assert source["refresh_delay"] == 72


def test_a_list_cannot_take_the_place_of_a_static_server():
    """In dnscrypt-proxy 2.1.8 a list's stamp replaces that of a registered server of its name."""
    config = toml({"servers": {"good": GOOD}, "lists": {"mine": LIST}})
    assert "good" in config["disabled_server_names"]


def test_with_lists_there_is_a_first_configuration_that_needs_none():
    """It answers this qube alone, by the pillar's own servers, or else by the default ones."""
    first = toml({"lists": {"mine": LIST}}, "first.toml")
    assert list(first["static"]) == list(qubes_vpn_dnscrypt_pillar.SERVERS)
    document = {"lists": {"mine": LIST}, "servers": {"good": GOOD, "web": WEB}}
    first = toml({**document, "server_names": ["good", "of-a-list"]}, "first.toml")
    assert first["server_names"] == ["good"]
    assert first["listen_addresses"] == ["127.0.0.1:53"]
    assert "sources" not in first


def test_what_goes_through_a_relay_does_so_from_the_first():
    document = {"lists": {"mine": LIST}, "doh_servers": False, "relays": {"r": RELAY}}
    document["servers"] = {"good": GOOD, "other": OTHER}
    first = toml({**document, "routes": {"*": ["r"]}}, "first.toml")
    assert first["anonymized_dns"]["routes"] == [{"server_name": "*", "via": [RELAY]}]
    first = toml({**document, "routes": {"good": ["of-a-list"]}}, "first.toml")
    assert list(first["static"]) == ["other"]
    first = toml({**document, "routes": {"*": ["of-a-list"]}}, "first.toml")
    assert list(first["static"]) == list(qubes_vpn_dnscrypt_pillar.SERVERS)


def test_without_downloads_only_the_addresses_are_gone():
    text = texts({"lists": {"mine": LIST}, "servers": {"good": GOOD}})["dnscrypt-proxy.toml"]
    config = tomllib.loads(text)
    del config["sources"]["mine"]["urls"]
    assert tomllib.loads(qubes_vpn_dnscrypt.without_downloads(text)) == config


# --- relays


def test_a_relay_is_named_by_its_stamp():
    """A list may have another one of that name."""
    document = {"servers": {"good": GOOD}, "relays": {"r": RELAY}, "routes": {"*": ["r"]}}
    assert toml(document)["anonymized_dns"]["routes"] == [{"server_name": "*", "via": [RELAY]}]


def test_a_server_with_a_route_of_its_own_may_have_what_the_rest_has_not():
    six = server("[2001:db8::10]")
    document = {"servers": {"good": GOOD, "six": six}, "doh_servers": False}
    document["relays"] = {"r": RELAY, "r6": relay("[2001:db8::30]:443")}
    document["routes"] = {"*": ["r"], "six": ["r6"]}
    assert settings(document)["routes"] == {"*": ("r",), "six": ("r6",)}
    with pytest.raises(PillarError, match=r"no relay of it has IPv6, as 'six' has"):
        settings({**document, "routes": {"*": ["r"]}})


# --- stamps


@given(document=documents())
def test_every_made_up_stamp_is_one(document):
    for text in document.get("servers", {}).values():
        found = qubes_vpn_dnscrypt_stamp.read(text)
        assert found.port not in (53, 853)


@given(
    text=st.sampled_from([GOOD, WEB, RELAY]),
    place=st.integers(0, 120),
    mark=st.characters(codec="utf-8") | st.just(""),
)
def test_a_damaged_stamp_is_a_stamp_or_a_sentence(text, place, mark):
    damaged = text[:place] + mark + text[place + 1 :]
    with contextlib.suppress(qubes_vpn_dnscrypt_stamp.NotAStamp):
        assert qubes_vpn_dnscrypt_stamp.read(damaged).port not in (53, 853)


def test_the_real_grammar_of_several_hashes():
    """The length of each but the last has its highest bit set."""
    fields = b"\xa0" + b"a" * 32 + b"\x20" + b"b" * 32
    tail = b"\x10doh.good.example\x0a/dns-query"
    head = bytes([2]) + (0).to_bytes(8, "little") + b"\x0c203.0.113.20"
    text = stamp(0, "")[:7] + qubes_vpn_dnscrypt_stamp.base64.urlsafe_b64encode(
        head + fields + tail
    ).decode().rstrip("=")
    found = qubes_vpn_dnscrypt_stamp.read(text)
    assert (found.kind, str(found.address), found.name) == (
        "DoH",
        "203.0.113.20",
        "doh.good.example",
    )


# --- pillar.example


def test_example_shows_the_defaults():
    shown = EXAMPLE["resolvers"]["sys-dns"]["dnscrypt"]
    assert settings(shown) == settings()


def test_every_value_that_the_example_shows_in_a_comment_is_possible(pillar_example):
    shown = examples(pillar_example)
    assert {"lists", "routes", "relays", "forwarding", "cloaking", "blocked_ips"} <= set(shown)
    assert texts(shown)
    for key in set(shown) - {"lists", "relays", "routes", "server_names", "disabled_server_names"}:
        alone = {key: shown[key]}
        if key == "blocked_log":
            alone["blocked_ips"] = ["192.0.2.1"]
        assert settings(alone)[key] == settings(shown)[key]


def test_every_rule_of_the_bad_pillars_has_one(checkout):
    """At least 30 broken or hostile ones, each with exactly one problem."""
    bad = sorted((checkout / "tests/bad/pillars").glob("dnscrypt-*.expected"))
    assert len(bad) >= 90
    several = [each.name for each in bad if len(each.read_text().splitlines()) != 1]
    assert several == []
    said = itertools.chain.from_iterable(each.read_text().splitlines() for each in bad)
    assert all(".dnscrypt" in line for line in said)
