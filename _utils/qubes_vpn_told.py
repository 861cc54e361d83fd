# SPDX-License-Identifier: GPL-2.0-or-later
"""What VPN and resolver qubes tell dom0: small fixed forms, the same for who tells and who reads.

A qube may be anybody's by now.  So nothing in a form is text: numbers within limits, addresses,
names of devices, and words of a list.  What a form does not name is dropped; whatever else does not
fit makes the whole answer one that cannot be used.
"""

import hashlib
import ipaddress
import json
import re

#: Of the forms below.
VERSION = "1"
#: The services, as dom0 calls them; each is a file in /etc/qubes-rpc of a template.
PREFIX = "qubes-vpn."
SERVICES = ("Status", "Connect", "Disconnect", "Switch", "Rules", "Drops")
#: Those of a resolver qube.
OF_RESOLVERS = ("Status", "Rules", "Drops")
_DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_ID = re.compile(r"[0-9a-f]{16}")
_MOST, _LAST_PORT = 2**53, 65535
#: What a qube of each role tells of itself.
_PARTS = {"tunnel": ("killswitch", "tunnel", "dns"), "resolver": ("resolver",)}


class NotUnderstood(Exception):
    """An answer that cannot be used: the text names the place in it, and not what is there."""


def profile_id(name):
    """A profile as dom0 and its qube name it to one another: a text of 16 hexadecimal digits.

    Not by the name, which is anything that a file can be called.
    """
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def read(data, form):
    """The answer *data*, bytes, by its *form*; raises :class:`NotUnderstood`."""
    try:
        found = json.loads(data.decode("ascii"), parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        raise NotUnderstood("the answer is no JSON") from None
    return _fit(found, form, "answer")


def for_role(status, role):
    """What of a ``STATUS`` belongs to *role*, ``tunnel`` or ``resolver``; the rest is None.

    Raises :class:`NotUnderstood` when any of it is missing.
    """
    parts = _PARTS[role]
    if status["role"] != role or None in [status[part] for part in parts]:
        raise NotUnderstood(f"it does not say that it is a {role}")
    kept = (*parts, "mullvad") if role == "tunnel" else parts
    others = {part for each in _PARTS.values() for part in each} | {"mullvad"}
    return {key: None if key in others - {*kept} else value for key, value in status.items()}


def _fit(value, form, place):
    if isinstance(form, dict):
        if not isinstance(value, dict):
            raise NotUnderstood(f"{place} is no mapping")
        return {key: _fit(value.get(key), inner, f"{place}.{key}") for key, inner in form.items()}
    try:
        return form(value, place)
    except ValueError:
        raise NotUnderstood(f"{place} is not what it may be") from None


def _flag(value, _):
    if not isinstance(value, bool):
        raise ValueError
    return value


def _number(value, _):
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise ValueError
    return value


def _port(value, place):
    if _number(value, place) > _LAST_PORT:
        raise ValueError
    return value


def _matching(pattern):
    def fit(value, _):
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError
        return value

    return fit


def _word(*words):
    def fit(value, _):
        if value not in words or not isinstance(value, str):
            raise ValueError
        return value

    return fit


def _address(value, _):
    if not isinstance(value, str) or len(value) > 45 or "%" in value:
        raise ValueError
    return str(ipaddress.ip_address(value))


def _server(value, place):
    """ADDRESS:PORT, an IPv6 address in brackets."""
    if not isinstance(value, str):
        raise ValueError
    host, _, port = value.rpartition(":")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5):
        raise ValueError
    found, port = _address(host.removeprefix("[").removesuffix("]"), place), _port(int(port), place)
    return f"[{found}]:{port}" if ":" in found else f"{found}:{port}"


def _maybe(form):
    return lambda value, place: None if value is None else _fit(value, form, place)


def _many(form, most):
    def fit(value, place):
        if not isinstance(value, list) or len(value) > most:
            raise ValueError
        return [_fit(each, form, f"{place}[{number}]") for number, each in enumerate(value)]

    return fit


_VERSIONS = _word(VERSION)
STATES = ("up", "connecting", "down", "unknown")
#: What systemd says of a unit, `absent` for one that is not there; `unknown` where there is none.
UNIT_STATES = ("active", "activating", "inactive", "failed", "absent", "unknown")
UNITS = (
    *("qubes-firewall", "NetworkManager", "qubes-vpn-watch", "qubes-vpn-follow"),
    *("mullvad-daemon", "qubes-misc-post", "dnscrypt-proxy", "qubes-vpn-dns"),
)
#: Why a tunnel is not as it should be.
TUNNEL_FAULTS = (
    *("no-settings", "bad-settings", "profile-missing", "profile-unusable"),
    *("keyfile-differs", "not-a-tunnel", "files-missing"),
)
#: Why a resolver does not answer: of :mod:`qubes_vpn_dns_health`.
CAUSES = ("not-running", "refused", "clock", "out", "list", "servers", "old-list", "other")
#: Why a tunnel was not brought up or taken down.
REASONS = ("busy", "profile", "endpoint", "killswitch", "no-answer", "no-tunnel")
#: Those of them that leave the tunnel as it was.
UNTOUCHED = ("busy", "profile", "endpoint", "no-tunnel")
_COUNTED = {"dropped": _number, "refused": _number}

#: The answer of the service Status.
STATUS = {
    "version": _VERSIONS,
    "role": _word("tunnel", "resolver"),
    "forwarding": _flag,
    "custom_persist": _flag,
    "units": {unit: _word(*UNIT_STATES) for unit in UNITS},
    # The user's own: with something in it and not executable; with DOS line ends; with bad syntax.
    "scripts": {"idle": _number, "dos": _number, "broken": _number},
    "killswitch": _maybe(
        {
            "state": _word("open", "closed", "altered", "absent"),
            "in_template": _flag,
            "problems": _number,
            "drift": _number,
            "endpoints": _maybe(_number),
            "log": _maybe(_flag),
            "counters": _maybe(_COUNTED),
        }
    ),
    "tunnel": _maybe(
        {
            "kind": _word("wireguard", "openvpn", "mullvad", "other"),
            "state": _word(*STATES),
            "interface": _maybe(_matching(_DEVICE)),
            "handshake": _maybe(_number),  # seconds since the last one
            "server": _maybe(_server),
            "sent": _number,  # bytes
            "received": _number,
            "faults": _many(_word(*TUNNEL_FAULTS), 20),
            "profiles": _many({"id": _matching(_ID), "state": _word(*STATES)}, 200),
        }
    ),
    "mullvad": _maybe(
        {
            "answers": _flag,
            "enabled": _flag,
            "account": _maybe(_word("logged in", "logged out", "revoked")),
            "lan": _maybe(_flag),
            "auto_connect": _maybe(_flag),
            "lockdown": _maybe(_flag),
        }
    ),
    "dns": _maybe(
        {
            "open": _flag,
            "resolvers": _many(_address, 8),
            "named": _many(_address, 32),
            "follows": _flag,
        }
    ),
    "resolver": _maybe(
        {
            "state": _word("open", "closed", "altered", "absent"),
            "problems": _number,
            "drift": _number,
            "answers": _flag,
            "causes": _many(_word(*CAUSES), 20),
            "own_names": _flag,
            "counters": _maybe(_COUNTED),
        }
    ),
}
#: Of Connect, Disconnect and Switch.
DONE = {
    "version": _VERSIONS,
    "done": _flag,
    "state": _word(*STATES),
    "profile": _maybe(_matching(_ID)),
    # Which was up before; an older template's qube does not tell.
    "former": _maybe(_matching(_ID)),
    "why": _maybe(_word(*REASONS)),
}
#: Of Drops: the newest last.
DROPS = {
    "version": _VERSIONS,
    "log": _flag,
    "rows": _many(
        {
            "time": _number,  # seconds since 1970
            "in": _maybe(_matching(_DEVICE)),
            "out": _maybe(_matching(_DEVICE)),
            "from": _address,
            "to": _address,
            "protocol": _matching(re.compile(r"[A-Za-z0-9]{1,12}")),
            "from_port": _maybe(_port),
            "to_port": _maybe(_port),
        },
        1000,
    ),
}
