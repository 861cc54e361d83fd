# SPDX-License-Identifier: GPL-2.0-or-later
"""The grammar of one firewall rule, and its canonical form.

Source: qubes/firewall.py of qubes-core-admin. A bad rule is a `ValueError` here, and no answer at
all on the wire.
"""

import datetime
import socket
import string

from .names import LETTERS_DIGITS, only

_VALUE = LETTERS_DIGITS + ":;,./-_[]"
_HOST = string.ascii_lowercase + string.digits + "-._"
_DESTINATIONS = ("dsthost", "dst4", "dst6", "dstname")
_CHOICES = {
    "action": ("accept", "drop"),
    "proto": ("tcp", "udp", "icmp"),
    "specialtarget": ("dns",),
}
_ORDER = ("action", "expire", "dsthost", "proto", "specialtarget", "dstports", "icmptype")


def canonical(line: str, release) -> str:
    """*line* as firewall.Get will show it; `ValueError` when it is not a rule."""
    options, _, comment = line.partition("comment=")
    parts: dict[str, str] = {}
    for option in options.strip().split(" "):
        key, value = option.split("=", 1)
        kind = "dsthost" if key in _DESTINATIONS else key
        if kind in parts or kind not in _ORDER:
            raise ValueError(f"unknown or repeated option {key}")
        parts[kind] = _option(kind, value, release)
    _check_together(parts)
    if not only(comment, _VALUE + " "):
        raise ValueError("illegal character in comment")
    shown = [parts[kind] for kind in _ORDER if kind in parts]
    return " ".join(shown + ([f"comment={comment}"] if comment else []))


def _check_together(parts: dict[str, str]) -> None:
    if "action" not in parts:
        raise ValueError("rule without action")
    if "dstports" in parts and parts.get("proto") not in ("proto=tcp", "proto=udp"):
        raise ValueError("dstports without proto=tcp or proto=udp")
    if "icmptype" in parts and parts.get("proto") != "proto=icmp":
        raise ValueError("icmptype without proto=icmp")


def _option(kind: str, value: str, release) -> str:
    if kind == "dsthost":
        return _destination(value)
    if kind == "dstports":
        return _ports(value, release.highest_port)
    if kind == "icmptype":
        return _icmp_type(value)
    if kind == "expire":
        return _expire(value)
    if value not in _CHOICES[kind]:
        raise ValueError(f"{kind} cannot be {value}")
    return f"{kind}={value}"


def _destination(value: str) -> str:
    host, slash, length = value.partition("/")
    for kind, family, longest in (("dst6", socket.AF_INET6, 128), ("dst4", socket.AF_INET, 32)):
        if not _is_address(family, host):
            continue
        if not slash:
            return f"{kind}={value}/{longest}"
        if not length.isdigit() or int(length) > longest:
            raise ValueError("bad prefix length")
        return f"{kind}={value}"
    if slash or not only(value, _HOST):
        raise ValueError("bad host name or address")
    return f"dsthost={value}"


def _is_address(family: int, text: str) -> bool:
    try:
        socket.inet_pton(family, text)
    except OSError:
        return False
    return True


def _ports(value: str, highest: int) -> str:
    first, dash, last = value.partition("-")
    low, high = int(first), int(last if dash else first)
    if not 0 <= low <= high <= highest:
        raise ValueError("bad port range")
    return f"dstports={low}-{high}"


def _icmp_type(value: str) -> str:
    if len(value) > 3 or not value.isdigit() or int(value) > 255:
        raise ValueError("bad ICMP type")
    return f"icmptype={int(value)}"


def _expire(value: str) -> str:
    if not value.isdigit():
        raise ValueError("expire is not a number of seconds")
    try:
        datetime.datetime.fromtimestamp(int(value))
    except (OverflowError, OSError) as error:
        raise ValueError("expire is out of range") from error
    return f"expire={value}"


def expired(rule: str, now: float) -> bool:
    """Whether a canonical rule has expired at *now*, in seconds since the epoch."""
    for option in rule.partition(" comment=")[0].split(" "):
        if option.startswith("expire="):
            return int(option.removeprefix("expire=")) < now
    return False


def without_notes(rule: str) -> str:
    """A canonical rule without what concerns only its owner: expiry and comment."""
    options = rule.partition(" comment=")[0].split(" ")
    return " ".join(option for option in options if not option.startswith("expire="))
