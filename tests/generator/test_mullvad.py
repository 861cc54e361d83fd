# SPDX-License-Identifier: GPL-2.0-or-later
"""The allowlist from Mullvad's relay list (R36)."""

import ipaddress
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import qubes_vpn_net
from qubes_vpn_formula.cli import main
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.profiles import mullvad

API = "45.83.223.196:443/tcp"


def relay(hostname, ipv4, ipv6=None, **other):
    """A WireGuard relay as the API lists it."""
    country, city, *_ = hostname.split("-")
    return {
        "hostname": hostname,
        "location": f"{country}-{city}",
        "active": True,
        "owned": True,
        "provider": "made up",
        "ipv4_addr_in": ipv4,
        "ipv6_addr_in": ipv6,
        "include_in_country": True,
        "weight": 100,
        "public_key": "",
        "daita": False,
        **other,
    }


RELAYS = [
    relay("se-got-wg-001", "203.0.113.0", "2001:db8::1"),
    relay("se-got-wg-002", "203.0.113.1", "2001:db8::2", owned=False),
    relay("se-sto-wg-001", "203.0.113.2", "::", active=False),
    relay("se-sto-wg-002", "203.0.113.3"),
    relay("de-ber-wg-001", "198.51.100.5", "2001:db8:1::5"),
]


def api_list(relays):
    """The shape of the API and of the app's cache of today."""
    return {
        "locations": {"se-got": {"country": "Sweden", "city": "Gothenburg"}},
        "wireguard": {"port_ranges": [[53, 53], [51820, 51820]], "relays": relays},
        "bridge": {"shadowsocks": [], "relays": []},
        "etag": "made-up",
    }


def old_cache(relays):
    """The shape of the app's cache in older versions, with relays of other kinds among them."""
    countries = {}
    for one in relays:
        country, city = one["location"].split("-")
        other = {**one, "endpoint_data": {"wireguard": {"public_key": ""}}}
        bridge = {**one, "ipv4_addr_in": "192.0.2.77", "endpoint_data": "bridge"}
        countries.setdefault(country, {}).setdefault(city, []).extend([bridge, other])
    return {
        "etag": None,
        "countries": [
            {
                "name": code,
                "code": code,
                "cities": [{"code": city, "relays": listed} for city, listed in cities.items()],
            }
            for code, cities in countries.items()
        ],
        "wireguard": {"port_ranges": [[53, 53], [51820, 51820]]},
    }


@pytest.fixture
def relays_file(tmp_path):
    def write(data):
        path = tmp_path / "relays.json"
        path.write_text(json.dumps(data))
        return str(path)

    return write


def texts(profile):
    return [found.text for found in profile.endpoints]


@pytest.mark.parametrize("shape", [api_list, old_cache])
def test_both_shapes(shape, relays_file):
    """Active WireGuard relays only, collapsed, and the API's address."""
    path = relays_file(shape(RELAYS))
    assert texts(mullvad.read(path, ["se"])) == [
        "203.0.113.0/31:51820/udp",
        "203.0.113.3:51820/udp",
        API,
    ]


def test_choices(relays_file):
    path = relays_file(api_list(RELAYS))
    assert texts(mullvad.read(path, ["de", "se"], "rented")) == ["203.0.113.1:51820/udp", API]
    assert texts(mullvad.read(path, entries=["de-ber-wg-001"])) == ["198.51.100.5:51820/udp", API]
    assert texts(mullvad.read(path, ["de"], port=53, ipv6=True)) == [
        "198.51.100.5:53/udp",
        "[2001:db8:1::5]:53/udp",
        API,
    ]
    assert "[2001:db8::2]" not in " ".join(texts(mullvad.read(path, ["se"])))


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"port": 51821}, "no relay listens on port 51821"),
        ({"countries": ["xx"]}, "no country 'xx'"),
        ({"entries": ["se-sto-wg-001"]}, "is inactive"),
        ({"countries": ["de"], "owner": "rented"}, "no relay fits"),
    ],
)
def test_nothing_to_pin(wishes, message, relays_file):
    with pytest.raises(UserError, match=message):
        mullvad.read(relays_file(api_list(RELAYS)), **wishes)


@given(st.sets(st.ip_addresses(network="203.0.112.0/22"), min_size=1))
def test_collapsed_exactly(addresses):
    """The prefixes hold every active relay and not one address more."""
    relays = [
        mullvad.Relay(f"xx-xxx-wg-{number}", "xx", True, True, (address,))
        for number, address in enumerate(addresses)
    ]
    found = [
        ipaddress.ip_network(qubes_vpn_net.endpoint(one.text).host)
        for one in mullvad._endpoints(relays, 51820, False, "relays.json")
    ]
    assert {address for network in found for address in network} == addresses
    assert found == list(ipaddress.collapse_addresses(found))


def test_command(relays_file, capsys):
    """The whole command; where the relays come from stands beside each prefix."""
    path = relays_file(api_list(RELAYS))
    words = ["init", "--provider", "mullvad", "--relays", path, "--country", "SE", "--owner"]
    assert main(words) == 0
    shown = capsys.readouterr()
    tunnel = yaml.safe_load(shown.out)["qubes_vpn"]["tunnels"]["sys-vpn"]
    assert tunnel["kind"] == "mullvad"
    assert "profile" not in tunnel
    assert tunnel["endpoints"] == ["203.0.113.0:51820/udp", "203.0.113.3:51820/udp", API]
    assert "# se-got-wg-001" in shown.out
    assert "wireguard-port --port 51820" in shown.err


def test_too_many_for_qubes(relays_file, capsys):
    """More than one Admin API call can carry: the checker's problem, and no pillar."""
    many = [relay(f"se-got-wg-{n}", f"203.{n // 128}.{n % 128 * 2}.1") for n in range(1200)]
    path = relays_file(api_list(many))
    assert main(["init", "--provider", "mullvad", "--relays", path]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "1,202 firewall rules" in shown.err


def test_without_a_list(capsys):
    """It says where to get one."""
    assert main(["init", "--provider", "mullvad"]) == 2
    assert "/var/cache/mullvad-vpn/relays.json" in capsys.readouterr().err
