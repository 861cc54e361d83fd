# SPDX-License-Identifier: GPL-2.0-or-later
"""A profile's servers against the endpoints that the killswitch lets through (R35)."""

import ipaddress

import qubes_vpn_net
from qubes_vpn_error import UserError


class Missing(UserError):
    """A server of a profile that is not among the endpoints."""


class Pins:
    """The *endpoints* (texts, as in the pillar) of a qube whose profile is the file *path*."""

    def __init__(self, endpoints, path):
        self._endpoints = [qubes_vpn_net.endpoint(text) for text in endpoints]
        self._path = path

    def check(self, text, line, key):
        """Raises :class:`Missing` unless *text*, a server of the profile, is among them."""
        server = qubes_vpn_net.endpoint(text)
        for endpoint in self._ways(server.version, server.first, server.proto):
            if ipaddress.ip_network(server.host).subnet_of(ipaddress.ip_network(endpoint.host)):
                return
        raise self._missing(f"{text} is not among the endpoints", line, key)

    def addresses(self, host):
        """The addresses that are pinned for the server *host*, never looked up here; at least one.

        Raises :class:`Missing`.
        """
        found = []
        for endpoint in self._ways(host.version, host.port, host.proto):
            network = ipaddress.ip_network(endpoint.host)
            if network.prefixlen == network.max_prefixlen:
                found.append(str(network.network_address))
        if not found:
            server = f"{host.name}, port {host.port}/{host.proto}"
            raise self._missing(f"no endpoint is that of {server}: the list is", host.line, None)
        return found

    def _ways(self, version, port, proto):
        """The endpoints of that port and protocol, and of that IP version unless it is 0."""
        return [
            endpoint
            for endpoint in self._endpoints
            if version in (0, endpoint.version)
            and endpoint.proto == proto
            and endpoint.first <= port <= endpoint.last
        ]

    def _missing(self, what, line, key):
        texts = [endpoint.text for endpoint in self._endpoints]
        listed = ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if texts[3:] else "")
        return Missing(
            f"{what} {listed or '(none)'}",
            "If the provider has moved it, put the new address into the pillar and apply that; "
            "if not, do not trust the profile.",
            file=self._path,
            line=line,
            key=key,
        )
