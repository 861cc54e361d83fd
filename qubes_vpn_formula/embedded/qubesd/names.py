# SPDX-License-Identifier: GPL-2.0-or-later
"""Character sets and names that qubesd accepts."""

import string

from .errors import EmptyAnswer, value_error

LETTERS_DIGITS = string.ascii_letters + string.digits
#: labels and pools
WORD = LETTERS_DIGITS + "-_."
#: tags
TAG = LETTERS_DIGITS + "-_"

_TRUE = ("1", "yes", "true", "on")
_FALSE = ("0", "no", "false", "off")


def only(text: str, allowed: str) -> bool:
    """Whether *text* has no character outside *allowed*; true for an empty text."""
    return all(character in allowed for character in text)


def ascii_text(payload: bytes) -> str:
    """*payload* as text; anything but ASCII gets no answer."""
    try:
        return payload.decode("ascii")
    except UnicodeDecodeError as error:
        raise EmptyAnswer from error


def boolean(text: str) -> bool:
    """Parse a boolean as qubesd does, case-insensitively."""
    lowered = text.lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise value_error(f"not a boolean: {text!r}")


def size(payload: bytes, negative: bool = False) -> int:
    """A size or count: ASCII digits, at most 19, no leading zeros; else no answer."""
    sign = 1
    if negative and payload.startswith(b"-"):
        sign, payload = -1, payload[1:]
    if not payload.isdigit() or len(payload) > 19 or (payload[:1] == b"0" and payload != b"0"):
        raise EmptyAnswer
    return sign * int(payload)


def check_qube_name(release, name: str) -> None:
    """Raise `QubesValueError` for a name that no qube may have."""
    if len(name) > 31:
        raise value_error("qube name is longer than 31 characters")
    if not release.name_pattern.fullmatch(name):
        raise value_error("qube name does not start with a letter or has illegal characters")
    if name in ("Domain-0", "none", "default"):
        raise value_error(f"qube name cannot be {name!r}")
    if name.endswith("-dm"):
        raise value_error("qube name cannot end with -dm")
