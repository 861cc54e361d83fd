# SPDX-License-Identifier: GPL-2.0-or-later
"""Mullvad's relay list.

Two shapes are read, as mullvadvpn-app has them: that of the API and of the app's cache today
(``locations`` and ``wireguard.relays``, ``mullvad-api/src/relay_list.rs``), and that of older
caches (``countries[].cities[].relays[]``, ``mullvad-types/src/relay_list.rs``).
"""

from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.relays.relay import Relay, RelayList, Unusable, address, hostname, word

WHERE = (
    "Mullvad's, in a qube with the app: /var/cache/mullvad-vpn/relays.json; elsewhere: "
    "curl -o relays.json https://api.mullvad.net/app/v1/relays"
)


def relay_list(found, path):
    """The :class:`RelayList` in *found*, parsed JSON; raises :class:`UserError`."""
    if isinstance(found, list):
        raise UserError(
            "a relay list of Mullvad's web page, without the port ranges",
            f"Take the app's list. {WHERE}",
            file=path,
        )
    try:
        wireguard = found["wireguard"]
        ports = _ranges(wireguard["port_ranges"])
        shadowsocks = _ranges(wireguard.get("shadowsocks_port_ranges") or ())
        listed = list(_listed(found))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError("not a relay list", f"Get it again. {WHERE}", file=path) from None
    return RelayList(path, "mullvad", tuple(_relays(listed, path)), ports, shadowsocks)


def _ranges(listed):
    """Pairs, or mappings as the app's cache has them."""
    found = tuple(
        (each["start"], each["end"]) if isinstance(each, dict) else tuple(each) for each in listed
    )
    if not all(type(port) is int and 1 <= port <= 65535 for a, b in found for port in (a, b)):
        raise ValueError
    return found


def _listed(found):
    """Every WireGuard relay with what only that kind has, and its location's codes."""
    if "countries" not in found:
        for relay in found["wireguard"]["relays"]:
            yield relay, relay, relay["location"].split("-")[:2]
        return
    for country in found["countries"]:
        for city in country["cities"]:
            for relay in city["relays"]:
                if "wireguard" in relay["endpoint_data"]:
                    place = country["code"], city["code"]
                    yield relay, relay["endpoint_data"]["wireguard"], place


def _relays(listed, path):
    seen = set()
    for number, (relay, wireguard, place) in enumerate(listed, 1):
        try:
            found = _relay(relay, wireguard, place)
            if found.hostname in seen:
                raise Unusable(f"a second relay is called {found.hostname}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = str(error) if isinstance(error, Unusable) else "it is not as Mullvad's are"
            raise UserError(
                f"relay {number} cannot be used: {what}", f"Get the list again. {WHERE}", file=path
            ) from None
        seen.add(found.hostname)
        yield found


def _relay(relay, wireguard, place):
    country, city = place
    active, owned = relay["active"], relay["owned"]
    if not isinstance(active, bool) or not isinstance(owned, bool):
        raise Unusable("whether it is active and owned must be true or false")
    texts = [relay["ipv4_addr_in"]]
    if relay.get("ipv6_addr_in") not in (None, "::"):  # either says that there is none
        texts.append(relay["ipv6_addr_in"])
    extra = wireguard.get("shadowsocks_extra_addr_in") or ()
    quic = (wireguard.get("features") or wireguard).get("quic") or {}
    return Relay(
        hostname=hostname(relay["hostname"]),
        country=word(country.lower(), "country"),
        city=word(city.lower(), "city"),
        owner="owned" if owned else "rented",
        hosted_by=word(relay.get("provider"), "company"),
        active=active,
        addresses=tuple(_addresses(texts, active)),
        key=str(wireguard.get("public_key") or ""),
        shadowsocks=tuple(_addresses(extra, active)),
        quic=tuple(_addresses(quic.get("addr_in") or (), active)),
    )


def _addresses(texts, active):
    """Of a relay that is not in use, what has no address is no reason to refuse the list."""
    for text in texts:
        try:
            yield address(text)
        except Unusable:
            if active:
                raise
