# SPDX-License-Identifier: GPL-2.0-or-later
"""What a provider's profile says about the network, and nothing that is secret.

The values of keys, passwords and certificates never enter these objects, so that nothing that is
made of them (pillar, messages, JSON) can show one.
"""

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import NamedTuple

import qubes_vpn_net
from qubes_vpn_error import UserError
from qubes_vpn_problem import show

#: Kinds of tunnel that are made from a profile, and how its file's name ends.
ENDINGS = {"wireguard": ".conf", "openvpn": ".ovpn"}

_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)*"
    r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?\Z"
)


#: What could be (a piece of) a key in base64 or hexadecimal digits.
_KEY_MATERIAL = re.compile(r"[A-Za-z0-9+/]{20}")


class Endpoint(NamedTuple):
    """One pinned endpoint.  text: as the pillar has it.  origin: whence, for a comment."""

    text: str
    origin: str


class Host(NamedTuple):
    """A server given by name: it has to be pinned (R35).  version: 4, 6, or 0 for either."""

    name: str
    port: int
    proto: str
    version: int
    line: int


class Secret(NamedTuple):
    """That there is a secret, and where; never its value."""

    what: str
    line: int


class Reference(NamedTuple):
    """Another file that the profile needs; it belongs into the VPN qube too."""

    key: str
    path: str
    line: int


class Finding(NamedTuple):
    """Something in the profile that a user should know.

    danger: it could run programs as root or let traffic past the tunnel.
    refused: the VPN qube takes no profile with it.  fix: what to do then, a sentence, or empty.
    """

    line: int
    key: str
    what: str
    danger: bool = False
    refused: bool = False
    fix: str = ""


@dataclass(frozen=True)
class Profile:
    """A provider's profile without its secrets.

    kind: ``wireguard``, ``openvpn`` or ``mullvad`` (the Mullvad app with its relay list).
    name: bare file name, empty for ``mullvad``.  provider: a guess, or empty.
    """

    kind: str
    name: str
    provider: str = ""
    endpoints: tuple = ()
    hosts: tuple = ()
    secrets: tuple = ()
    files: tuple = ()
    findings: tuple = ()

    def pinned(self, addresses):
        """This profile with its host names replaced by *addresses* (name -> list of addresses).

        A name whose protocol asks for one IP version takes only addresses of that version.
        Raises :class:`UserError` when a name is left without an address.
        """
        endpoints = list(self.endpoints)
        for host in self.hosts:
            fitting = [
                address
                for address in addresses.get(host.name, ())
                if host.version in (0, ipaddress.ip_address(address).version)
            ]
            if not fitting:
                version = f"IPv{host.version} " if host.version else ""
                raise UserError(
                    f"there is no {version}address for {host.name}",
                    f"Give one: --address {host.name}=ADDRESS.",
                    file=self.name,
                    line=host.line,
                )
            endpoints += [
                endpoint(
                    address,
                    host.port,
                    host.proto,
                    f"{host.name}, line {host.line}",
                    file=self.name,
                    line=host.line,
                    key=host.name,
                )
                for address in fitting
            ]
        return replace(self, endpoints=once(endpoints), hosts=())


def endpoint(address, port, proto, origin, **place):
    """An :class:`Endpoint`, or :class:`UserError` at *place* (file, line, key)."""
    host = f"[{address}]" if ":" in address else address
    try:
        return Endpoint(qubes_vpn_net.endpoint(f"{host}:{port}/{proto}").text, origin)
    except qubes_vpn_net.NotADestination as error:
        raise UserError(error.what, "Write the server's own address.", **place) from None


def once(endpoints):
    """The endpoints in their order, each where it comes first."""
    kept = {}
    for found in endpoints:
        kept.setdefault(found.text, found)
    return tuple(kept.values())


def is_address(text):
    """Whether *text* is a numeric IPv4 or IPv6 address (no scope)."""
    try:
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def is_host_name(text):
    """Whether *text* could be the name of a server.  Numbers with dots only are none."""
    return bool(_HOST_NAME.match(text))


def port_number(text):
    """The port from 1 to 65535 that *text* writes, or None."""
    plain = text.isascii() and text.isdigit() and len(text) < 6
    return int(text) if plain and 1 <= int(text) <= 65535 else None


def shown(value):
    """*value* as a message may show it.  In a broken file a secret may stand in any place."""
    return "(not shown: it may be a secret)" if _KEY_MATERIAL.search(value) else show(value)


def shown_key(key):
    """An unknown *key* as a message may show it."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,30}", key) and not _KEY_MATERIAL.search(key)
    return key if plain else "(a key not shown)"
