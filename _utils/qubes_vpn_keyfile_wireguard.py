# SPDX-License-Identifier: GPL-2.0-or-later
"""A WireGuard profile as the sections of a NetworkManager keyfile (R31).

Keys: nm-settings(5) of NetworkManager 1.52.  A peer's networks become its routes, and with all of a
version's addresses among them NetworkManager gives the tunnel the default route of that version
(``ip4-auto-default-route``, ``ip6-auto-default-route``), its own packets to the server apart.
"""

import base64
import ipaddress

import qubes_vpn_wireguard
from qubes_vpn_error import UserError
from qubes_vpn_made import DNS, OFF, Made
from qubes_vpn_profile_data import Finding, Host


def made(lines, path, interface, pins):
    """The :class:`Made` of the *lines* of *path*; raises :class:`UserError`."""
    given, peers, servers = qubes_vpn_wireguard.sections(lines, path)
    addresses, findings = _listed(given, "Address"), []
    sections = {
        "connection": {"type": "wireguard", "interface-name": interface},
        "wireguard": {
            "private-key": _last(given, "PrivateKey"),
            "private-key-flags": "0",
            "mtu": _last(given, "MTU"),
        },
    }
    for peer, server in zip(peers, servers, strict=True):
        name = f"wireguard-peer.{_normal(_last(peer, 'PublicKey'))}"
        if name in sections:
            line = peer["PublicKey"][-1][0]
            what, fix = "another [Peer] has the same key", "Keep one."
            raise UserError(what, fix, file=path, line=line, key="PublicKey")
        sections[name] = _peer(peer, server, pins, path)
    for version, section in ((4, "ipv4"), (6, "ipv6")):
        mine = [found for found in addresses if found.version == version]
        sections[section] = _addresses(mine, version, _resolvers(given))
    for resolver in _resolvers(given):
        if isinstance(resolver, str) or resolver.version in {found.version for found in addresses}:
            continue
        what = f"{resolver} cannot be asked: the tunnel has no IPv{resolver.version} address"
        findings.append(Finding(given["DNS"][-1][0], "DNS", f"{what}; it is not taken over"))
    return Made(sections, {}, findings)


def _peer(peer, server, pins, path):
    networks = [ipaddress.ip_network(item, strict=False) for item in _items(peer, "AllowedIPs")]
    networks = [
        str(network)
        for version in (4, 6)
        for network in ipaddress.collapse_addresses(n for n in networks if n.version == version)
    ]
    keepalive = _last(peer, "PersistentKeepalive")
    preshared = _last(peer, "PresharedKey")
    return {
        "endpoint": server and _server(server, peer["Endpoint"][-1][0], pins, path),
        "preshared-key": preshared,
        "preshared-key-flags": preshared and "0",
        "persistent-keepalive": None if keepalive and keepalive.lower() == "off" else keepalive,
        "allowed-ips": "".join(f"{network};" for network in networks),
    }


def _server(server, line, pins, path):
    """ADDRESS:PORT of the one server that a peer can have."""
    if not isinstance(server, Host):
        pins.check(server.text, line, "Endpoint")
        return server.text.rpartition("/")[0]
    found = sorted(pins.addresses(server), key=lambda address: ":" in address)
    same = [address for address in found if (":" in address) == (":" in found[0])]
    if len(same) > 1:
        listed = ", ".join(same[:3])
        raise UserError(
            f"{server.name} may be any of {listed}, and a peer has one server",
            f"Write the address instead of the name, for example {same[0]}.",
            file=path,
            line=line,
            key="Endpoint",
        )
    return f"[{same[0]}]:{server.port}" if ":" in same[0] else f"{same[0]}:{server.port}"


def _addresses(addresses, version, resolvers):
    """The section of one IP version; without an address there is none of it."""
    if not addresses:
        return OFF
    mine = [str(found) for found in resolvers if getattr(found, "version", None) == version]
    domains = [found for found in resolvers if isinstance(found, str)]
    return {
        "method": "manual",
        **{f"address{at}": str(found) for at, found in enumerate(addresses, 1)},
        "dns": "".join(f"{resolver};" for resolver in mine) or None,
        **DNS,
        "dns-search": DNS["dns-search"] + "".join(f"{domain};" for domain in domains),
    }


def _resolvers(given):
    """Resolvers as addresses, search domains as texts."""
    found = []
    for item in _items(given, "DNS"):
        try:
            found.append(ipaddress.ip_interface(item).ip)
        except ValueError:
            found.append(item)
    return found


def _listed(given, key):
    return [ipaddress.ip_interface(item) for item in _items(given, key)]


def _items(given, key):
    return [item for _, value in given.get(key, ()) for item in qubes_vpn_wireguard.items(value)]


def _last(given, key):
    return given[key][-1][1] if key in given else None


def _normal(key):
    """The public *key* as NetworkManager wants it: it passes over a peer written otherwise."""
    return base64.b64encode(base64.b64decode(key)).decode("ascii")
