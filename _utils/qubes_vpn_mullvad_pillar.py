# SPDX-License-Identifier: GPL-2.0-or-later
"""What a pillar may say of the Mullvad app (R30), and how that must fit a tunnel's endpoints."""

import fnmatch
import ipaddress
import re

from qubes_vpn_problem import Problem, show
from qubes_vpn_types import Choice, Keys, ListOf, Port, Switch, refuse

#: api.mullvad.net, which the app asks for its login, its keys and its relay list.
API = "45.83.223.196"
API_PORT = 443

BLOCKERS = ("ads", "trackers", "malware", "adult_content", "gambling", "social_media")
#: The WireGuard port that the app is pinned to when nothing else is said.
WIREGUARD_PORT = 51820
#: Where Mullvad's relays take WireGuard in TCP (mullvadvpn-app: relay selector, udp2tcp ports).
UDP2TCP_PORTS = (80, 443, 5001)
QUIC_PORT = 443
_LOCATION = re.compile(
    r"any|[a-z]{2}( [a-z]{3}( [a-z]{2}-[a-z]{3}-[a-z0-9-]+)?)?|[a-z]{2}-[a-z]{3}-[a-z0-9-]+"
)


class Location:
    """Where relays are: ``se``, ``se got``, one relay as ``se-got-wg-001``, or ``any``."""

    def read(self, value, path, problems):
        if isinstance(value, str) and _LOCATION.fullmatch(value):
            return value
        what = f"{show(value)} is no location"
        fix = "Write se, se got, se-got-wg-001, or any; `mullvad relay list` has them all."
        if value is False:
            what, fix = "YAML reads this word as false", "Write 'no' in quotes: it is Norway."
        refuse(value, path, problems, what, fix)
        return None


MULLVAD = Keys(
    {
        "location": (Location(), None),
        "entry": (Location(), None),
        "blockers": (ListOf(Choice(*BLOCKERS)), ()),
        "lan": (Switch(), True),
        "lockdown": (Switch(), True),
        "auto_connect": (Switch(), True),
        "wireguard_port": (Port(), None),
        "obfuscation": (Choice("off", "udp2tcp", "shadowsocks", "lwo", "quic", false="off"), "off"),
        "obfuscation_port": (Port(), None),
        "quantum_resistant": (Switch(), True),
        "daita": (Switch(), False),
    }
)


def settings(values, relays):
    """What a tunnel of this kind has: *values*, as they were read, or none, with all defaults.

    relays: by what its endpoints were chosen, or None: that says the port too, and whose relays the
    app may take (``owner``: owned, rented, any; ``hosted_by``; None: as they are).
    """
    values = MULLVAD.read({}, (), []) if values is None else values
    relays = relays if relays and relays["list"] == "mullvad" else None
    port = values["wireguard_port"] or (relays and relays["port"]) or WIREGUARD_PORT
    owner = hosted_by = None
    if relays:
        owner, hosted_by = relays["owner"] or "any", relays["hosted_by"]
        if values["entry"]:  # of which the app would ask no other than of the exit
            owner, hosted_by = "any", ()
    return {**values, "wireguard_port": port, "owner": owner, "hosted_by": hosted_by}


def problems(at, tunnel):
    """What does not fit in the *tunnel* at the path *at*, as :class:`qubes_vpn_problem.Problem`."""
    if tunnel.kind != "mullvad":
        what = "these are settings of the Mullvad app"
        fix = "Remove them, or write 'kind: mullvad'."
        return [Problem((*at, "mullvad"), what, fix)] if tunnel.kind and tunnel.mullvad else []
    method, port = (tunnel.mullvad[key] for key in ("obfuscation", "obfuscation_port"))
    if outside := _outside(at, tunnel):
        return outside
    here = (*at, "mullvad", "obfuscation_port")
    if method in ("off", "quic") and port:
        own = "its port is wireguard_port" if method == "off" else f"it is always {QUIC_PORT}"
        return [Problem(here, f"obfuscation '{method}' has no such port: {own}", "Remove it.")]
    if method not in ("off", "quic") and not port:
        what = f"missing, and {method} would use any port"
        return [Problem(here, what, "Write the one that the endpoints have.")]
    if method == "udp2tcp" and port not in UDP2TCP_PORTS:
        known = ", ".join(map(str, UDP2TCP_PORTS))
        return [Problem(here, f"no relay takes udp2tcp on port {port}", f"Write one of: {known}.")]
    return _endpoints(at, tunnel, method)


def _outside(at, tunnel):
    """The relay that the app connects to must be one of those that were chosen."""
    key = "entry" if tunnel.mullvad["entry"] else "location"
    place, relays = tunnel.mullvad[key], tunnel.relays
    if not place or not relays or relays["list"] != "mullvad":
        return []
    country, city, host = parts(place)
    if (
        (relays["countries"] and country not in relays["countries"])
        or (relays["cities"] and city and city not in relays["cities"])
        or not _any_fits((country, city, host), relays["hostnames"])
    ):
        what = f"mullvad.{key} is '{place}', and the relays are chosen elsewhere"
        return [Problem((*at, "relays"), what, "Change the one or the other.")]
    return []


def parts(location):
    """``(country, city, host name)`` of a location, None for what it leaves open."""
    words = location.split()
    host = words[-1] if "-" in words[-1] else None
    country, city = (*(host.split("-") if host else words), None)[:2]
    return None if country == "any" else country, city, host


def _any_fits(place, patterns):
    """Whether a relay at *place* (of :func:`parts`) may have a name like one of *patterns*."""
    *where, host = place
    if not patterns or host:
        return not patterns or any(fnmatch.fnmatchcase(host, pattern) for pattern in patterns)
    return any(
        all(
            code in (None, part) or set("*?[") & set(part)
            for code, part in zip(where, pattern.split("-"), strict=False)
        )
        for pattern in patterns
    )


def _endpoints(at, tunnel, method):
    """The one port that the app may use for a relay must be that of an endpoint."""
    key, proto, port = "obfuscation_port", "udp", tunnel.mullvad["obfuscation_port"]
    if method == "off":
        key, port = "wireguard_port", tunnel.mullvad["wireguard_port"]
    elif method == "quic":
        key, port = "obfuscation", QUIC_PORT
    elif method == "udp2tcp":
        proto = "tcp"
    if not tunnel.endpoints or any(
        found.proto == proto
        and found.first <= port <= found.last
        and found.host.partition("/")[0] != API  # takes no WireGuard
        for found in tunnel.endpoints
    ):
        return []
    what = f"none has the port {port}/{proto}, and the app uses no other: mullvad.{key}"
    return [Problem((*at, "endpoints"), what, "Add relays with that port, or change it.")]


def reaches_api(endpoint):
    """Whether Mullvad's API is in *endpoint*, a :class:`qubes_vpn_net.Destination`."""
    return (
        (endpoint.version, endpoint.proto) == (4, "tcp")
        and endpoint.first <= API_PORT <= endpoint.last
        and ipaddress.ip_address(API) in ipaddress.ip_network(endpoint.host)
    )
