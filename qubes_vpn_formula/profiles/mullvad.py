# SPDX-License-Identifier: GPL-2.0-or-later
"""Mullvad's relay list: the endpoints that a qube with the Mullvad app may reach (R36).

Two shapes are read, as mullvadvpn-app has them: that of the API and of the app's cache today
(``locations`` and ``wireguard.relays``, ``mullvad-api/src/relay_list.rs``), and that of older
caches (``countries[].cities[].relays[]``, ``mullvad-types/src/relay_list.rs``).
"""

import ipaddress
import json
from typing import NamedTuple

from qubes_vpn_formula.errors import UserError, read_text
from qubes_vpn_problem import suggest
from qubes_vpn_profile_data import Profile, endpoint

#: api.mullvad.net, which the app asks for its account and relay list.
API = ("45.83.223.196", 443, "tcp")

WHERE = (
    "In a qube with the Mullvad app it is /var/cache/mullvad-vpn/relays.json; elsewhere: "
    "curl -o relays.json https://api.mullvad.net/app/v1/relays"
)


class Relay(NamedTuple):
    """One WireGuard relay.  country: two letters.  owned: by Mullvad, not rented."""

    hostname: str
    country: str
    owned: bool
    active: bool
    addresses: tuple


def read(path, countries=(), owner=None, entries=(), port=51820, ipv6=False):
    """The :class:`Profile` for the active relays that fit; raises :class:`UserError`.

    countries: two-letter codes; owner: ``owned`` or ``rented``; entries: host names of relays;
    port: the WireGuard port that the app is to be pinned to; ipv6: addresses of IPv6 too.
    """
    relays, ports = _parse(read_text(path), path)
    _check_port(port, ports, path)
    _check_known(countries, {relay.country for relay in relays}, "country", path)
    _check_known(entries, {relay.hostname for relay in relays}, "relay", path)
    fitting = [
        relay
        for relay in relays
        if (not countries or relay.country in countries)
        and (owner is None or relay.owned == (owner == "owned"))
        and (not entries or relay.hostname in entries)
    ]
    active = [relay for relay in fitting if relay.active]
    if not active:
        what = "every relay that fits is inactive" if fitting else "no relay fits"
        raise UserError(what, "Choose another country, owner or entry.", file=path)
    return Profile(
        kind="mullvad",
        name="",
        provider="Mullvad",
        endpoints=(*_endpoints(active, port, ipv6, path), endpoint(*API, "api.mullvad.net")),
    )


def _endpoints(relays, port, ipv6, path):
    """Exactly the relays' addresses, in as few prefixes as that takes."""
    names = {address: relay.hostname for relay in relays for address in relay.addresses}
    for version in (4, 6) if ipv6 else (4,):
        addresses = [ipaddress.ip_network(a) for a in names if a.version == version]
        for network in ipaddress.collapse_addresses(addresses):
            inside = [names[address] for address in network if address in names]
            origin = inside[0] if len(inside) == 1 else f"{inside[0]} and {len(inside) - 1} more"
            single = network.prefixlen == network.max_prefixlen
            yield endpoint(
                str(network.network_address if single else network), port, "udp", origin, file=path
            )


def _parse(text, path):
    """All WireGuard relays of the list, and its port ranges."""
    try:
        found = json.loads(text)
    except ValueError as error:
        line = getattr(error, "lineno", None)
        raise UserError(
            "not JSON", f"Get the relay list again. {WHERE}", file=path, line=line
        ) from None
    if isinstance(found, list):
        raise UserError(
            "a relay list of Mullvad's web page, without the port ranges",
            f"Take the app's list. {WHERE}",
            file=path,
        )
    try:
        wireguard = found["wireguard"]
        ports = [(int(first), int(last)) for first, last in wireguard["port_ranges"]]
        relays = [_relay(*pair) for pair in _relays(found)]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            "not a relay list of the Mullvad app", f"Get it again. {WHERE}", file=path
        ) from None
    return relays, ports


def _relays(found):
    """Every WireGuard relay of the list, with its country's code."""
    if "countries" not in found:
        for relay in found["wireguard"]["relays"]:
            yield relay, relay["location"].partition("-")[0]
        return
    for country in found["countries"]:
        for city in country["cities"]:
            for relay in city["relays"]:
                if "wireguard" in relay["endpoint_data"]:
                    yield relay, country["code"]


def _relay(relay, country):
    texts = (relay["ipv4_addr_in"], relay.get("ipv6_addr_in"))
    addresses = tuple(ipaddress.ip_address(text) for text in texts if text)
    return Relay(
        relay["hostname"].lower(),
        country.lower(),
        bool(relay["owned"]),
        bool(relay["active"]),
        tuple(address for address in addresses if not address.is_unspecified),
    )


def _check_port(port, ranges, path):
    if not any(first <= port <= last for first, last in ranges):
        known = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
        raise UserError(
            f"no relay listens on port {port}",
            f"Choose --port from {known}.",
            file=path,
            key="wireguard.port_ranges",
        )


def _check_known(wanted, known, word, path):
    for name in wanted:
        if name not in known:
            raise UserError(f"the list has no {word} '{name}'", suggest(name, known), file=path)
