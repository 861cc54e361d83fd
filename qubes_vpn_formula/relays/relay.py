# SPDX-License-Identifier: GPL-2.0-or-later
"""What a relay list says, whatever its format."""

import ipaddress
import re
from typing import NamedTuple

from qubes_vpn_problem import show
from qubes_vpn_types import Word

_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")
#: Nobody answers there (RFC 5737, RFC 3849), so examples and tests may have them.
_DOCUMENTATION = [
    ipaddress.ip_network(network)
    for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]


class Relay(NamedTuple):
    """One relay.  Texts are empty where the list does not say.

    country, city: small letters.  owner: ``owned`` by the provider, ``rented`` or empty.
    hosted_by: in whose data centre.  port: the only one it has (plain lists), or None.  key: its
    public key.
    shadowsocks, quic: further addresses, for these only.
    """

    hostname: str
    country: str
    city: str
    owner: str
    hosted_by: str
    active: bool
    addresses: tuple
    port: int | None = None
    proto: str = "udp"
    key: str = ""
    shadowsocks: tuple = ()
    quic: tuple = ()


class RelayList(NamedTuple):
    """A whole list.  path: as the user named it.  kind: ``mullvad`` or ``plain``.

    ports, shadowsocks_ports: ranges ``(first, last)`` that every relay of Mullvad's listens on.
    """

    path: str
    kind: str
    relays: tuple
    ports: tuple = ()
    shadowsocks_ports: tuple = ()


class Unusable(ValueError):
    """What is wrong with one relay, in words; the reader knows where it stands."""


def hostname(text):
    """*text* in small letters; raises :class:`Unusable`."""
    name = text.lower() if isinstance(text, str) else ""
    if not _HOSTNAME.match(name):
        raise Unusable(f"{show(text)} is not a host name")
    return name


def word(text, what):
    """*text*, which may be empty, if the pillar could hold it; raises :class:`Unusable`."""
    if text in (None, ""):
        return ""
    if Word().read(text, (), []) is None:
        raise Unusable(f"{show(text)} cannot be the name of a {what}")
    return text


def address(text):
    """The address *text* of a server on the internet; raises :class:`Unusable`."""
    try:
        if not isinstance(text, str) or "%" in text:  # Python takes numbers and zones
            raise ValueError
        found = ipaddress.ip_address(text)
    except ValueError:
        raise Unusable(f"{show(text)} is not an IP address") from None
    if found.is_global and not found.is_multicast:
        return found
    if not any(found in network for network in _DOCUMENTATION):
        raise Unusable(f"{found} is not an address on the internet")
    return found
