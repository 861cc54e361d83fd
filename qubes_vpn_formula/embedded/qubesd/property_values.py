# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of a property on the wire: parsing a payload, showing a value."""

import ipaddress
import string
import uuid

from .errors import Missing, value_error
from .names import boolean, check_qube_name


def _text(text: str) -> str:
    if not all(character in string.printable for character in text):
        raise value_error("invalid characters in property value")
    return text


_PARSERS = {
    "str": _text,
    "label": _text,
    "int": int,
    "ipv4": lambda text: str(ipaddress.IPv4Address(text)),
    "ipv6": lambda text: str(ipaddress.IPv6Address(text)),
    "uuid": lambda text: str(uuid.UUID(text)),
    "bool": boolean,
}

#: kinds that the wire knows; addresses and such are plain text there
_WIRE_KINDS = ("vm", "int", "bool", "label")


def parse(release, prop, payload: bytes):
    """*payload* as a value of *prop*; `QubesValueError` when it cannot be one."""
    try:
        text = payload.decode("ascii")
    except UnicodeDecodeError as error:
        raise value_error("property value is not ASCII") from error
    if prop.kind == "vm":
        if text:
            check_qube_name(release, text)
        return text
    try:
        return _PARSERS[prop.kind](text)
    except ValueError as error:
        raise value_error(f"{prop.name}: not a valid {prop.kind}: {text!r}") from error


def wire_kind(prop) -> str:
    return prop.kind if prop.kind in _WIRE_KINDS else "str"


def show(value) -> str:
    return "" if value is None else str(value)


def describe(holder, prop) -> str:
    """The answer of property.Get: whether it is the default, its type, its value."""
    kind = wire_kind(prop)
    try:
        value = holder.get(prop.name)
    except Missing:
        return f"default=True type={kind} "
    return f"default={holder.is_default(prop.name)} type={kind} {show(value)}"
