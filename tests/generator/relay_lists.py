# SPDX-License-Identifier: GPL-2.0-or-later
"""Made-up relay lists in the shapes of the real ones."""

#: Places of the made-up relays.
_PLACES = ("us-nyc", "us-lax", "se-got", "se-mma", "se-sto", "de-fra", "gb-lon", "no-osl", "ch-zrh")


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
    """The shape of the API, and of the app's cache of today."""
    return {
        "locations": {"se-got": {"country": "Sweden", "city": "Gothenburg"}},
        "wireguard": {
            "port_ranges": [[53, 53], [51820, 51820]],
            "shadowsocks_port_ranges": [[51900, 51949]],
            "relays": relays,
        },
        "bridge": {"shadowsocks": [], "relays": []},
        "etag": "made-up",
    }


def old_cache(relays):
    """The shape of the app's cache in versions of 2025, with relays of another kind among them."""
    countries = {}
    for one in relays:
        country, city = one["location"].split("-")
        kept = {key: one[key] for key in one if not key.startswith(("shadowsocks", "features"))}
        data = {
            "public_key": one["public_key"],
            "shadowsocks_extra_addr_in": one.get("shadowsocks_extra_addr_in", []),
            "quic": one.get("features", {}).get("quic"),
        }
        other = {**kept, "endpoint_data": {"wireguard": data}}
        bridge = {**kept, "ipv4_addr_in": "192.0.2.77", "endpoint_data": "bridge"}
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
        "wireguard": {
            "port_ranges": [{"start": 53, "end": 53}, {"start": 51820, "end": 51820}],
            "shadowsocks_port_ranges": [{"start": 51900, "end": 51949}],
        },
    }


def many(count):
    """*count* relays, spread as the real ones are: few have a neighbour's address."""
    return [
        relay(
            f"{_PLACES[number % len(_PLACES)]}-wg-{number:03}",
            f"45.{64 + number // 120}.{number % 120 * 2}.{66 + number % 3}",
            f"2a03:1b20:{number:x}::f001",
            owned=number % 3 == 0,
            active=number % 30 != 7,
            provider=("31173", "M247", "xtom", "DataPacket")[number % 4],
            public_key=f"made-up-{number}",
            shadowsocks_extra_addr_in=[f"46.{number // 200}.{number % 200}.9"],
        )
        for number in range(count)
    ]
