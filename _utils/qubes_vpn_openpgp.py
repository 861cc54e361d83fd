# SPDX-License-Identifier: GPL-2.0-or-later
"""An OpenPGP public key, read before anything trusts it: its fingerprint, and that it is one key.

Whether the key's own signatures are right is not looked at: apt (sqv) and rpm do that with each
key that they read, and a primary key with the right fingerprint is all that somebody else's
subkeys cannot be bound to.  Formats: RFC 9580 (4 packets, 5.2.3 signatures, 5.5.4 fingerprints,
6 armor).
"""

import base64
import binascii
import hashlib
import re
import time
from typing import NamedTuple

_ARMOR = re.compile(
    r"^-----BEGIN PGP PUBLIC KEY BLOCK-----[ \t]*$\n(?P<headers>(?:[A-Za-z]+: .*\n)*)[ \t]*\n"
    r"(?P<body>(?:[A-Za-z0-9+/]+={0,2}[ \t]*\n)+)(?:=(?P<sum>[A-Za-z0-9+/]{4})[ \t]*\n)?"
    r"^-----END PGP PUBLIC KEY BLOCK-----[ \t]*$",
    re.MULTILINE,
)
_SIGNATURE, _PRIMARY, _NAME, _SUBKEY, _PICTURE = 2, 6, 13, 14, 17
_SECRET = (5, 7)
#: Types of signature that say something about the whole key; the last one takes it back.
_ABOUT_KEY = (0x10, 0x11, 0x12, 0x13, 0x1F)
_REVOKED = 0x20
_CREATED, _EXPIRES = 2, 9
#: Nothing that is one key is longer (bytes).
_MOST = 256 * 1024


class NotOneKey(Exception):
    """The text is not one public key that is valid now; the argument says why, in words."""


class Key(NamedTuple):
    """One public key.  fingerprint: 40 upper-case hexadecimal digits; text: itself, armored."""

    fingerprint: str
    text: str


def public_key(text, now=None):
    """The :class:`Key` in *text*, the armored text of exactly one key.

    now: the time at which it must be valid (seconds since 1970; default: this moment).
    Raises :class:`NotOneKey`.
    """
    data = _unarmored(text)
    packets = list(_packets(data))
    kinds = [kind for kind, _ in packets]
    if any(kind in _SECRET for kind in kinds):
        raise NotOneKey("it holds a secret key")
    if not kinds or kinds[0] != _PRIMARY:
        raise NotOneKey("it does not begin with a public key")
    if kinds.count(_PRIMARY) != 1:
        raise NotOneKey(f"it holds {kinds.count(_PRIMARY)} keys instead of one")
    if strange := {*kinds} - {_PRIMARY, _SIGNATURE, _NAME, _SUBKEY, _PICTURE}:
        raise NotOneKey(f"it holds something that is no part of a key (packet {min(strange)})")
    primary = packets[0][1]
    if len(primary) < 6 or primary[0] != 4:
        raise NotOneKey("it is not of version 4")
    _check_time(primary, packets, time.time() if now is None else now)
    # RFC 9580 5.5.4.2.  SHA-1 is what version 4 has; finding a second key for it is out of reach.
    digest = hashlib.sha1(b"\x99" + len(primary).to_bytes(2, "big") + primary)  # noqa: S324
    return Key(digest.hexdigest().upper(), _armored(data))


def _unarmored(text):
    text = text.replace("\r\n", "\n")
    if len(text) > _MOST:
        raise NotOneKey(f"it is longer than {_MOST} characters")
    if text.count("-----BEGIN ") > 1:
        raise NotOneKey("it holds more than one block")
    found = _ARMOR.search(text)
    if not found:
        raise NotOneKey("it is no armored public key")
    try:
        data = base64.b64decode("".join(found["body"].split()), validate=True)
    except binascii.Error:
        raise NotOneKey("its text is damaged") from None
    if found["sum"] and base64.b64decode(found["sum"]) != _crc24(data):
        raise NotOneKey("its checksum is wrong")
    return data


def _armored(data):
    """*data* as armored text: nothing but what was read here gets into a file."""
    body = base64.b64encode(data).decode("ascii")
    lines = [body[place : place + 64] for place in range(0, len(body), 64)]
    end = "=" + base64.b64encode(_crc24(data)).decode("ascii")
    begin = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
    return "\n".join([begin, "", *lines, end, begin.replace("BEGIN", "END"), ""])


def _crc24(data):
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc.to_bytes(3, "big")


def _packets(data):
    """``(kind, body)`` of each packet."""
    place = 0
    while place < len(data):
        head = data[place]
        place += 1
        if not head & 0x80:
            raise NotOneKey("its text is damaged")
        if head & 0x40:
            kind = head & 0x3F
            length, place = _length(data, place)
        else:
            kind, size = head >> 2 & 0x0F, (1, 2, 4, 0)[head & 0x03]
            if not size:
                raise NotOneKey("a part of it has no length")
            length, place = int.from_bytes(data[place : place + size], "big"), place + size
        if place + length > len(data):
            raise NotOneKey("it is cut off")
        yield kind, data[place : place + length]
        place += length


def _length(data, place):
    """``(length, place after it)`` of a packet or subpacket in the present form."""
    first = data[place] if place < len(data) else 0
    if first < 192:
        return first, place + 1
    if first == 255:
        return int.from_bytes(data[place + 1 : place + 5], "big"), place + 5
    if first >= 224:
        raise NotOneKey("a part of it is in pieces")
    return (first - 192 << 8) + int.from_bytes(data[place + 1 : place + 2], "big") + 192, place + 2


def _check_time(primary, packets, now):
    """Refuses a key that is taken back, of the future, or over, by what it says of itself."""
    created = int.from_bytes(primary[1:5], "big")
    if created > now:
        raise NotOneKey("it is of the future; is the clock right?")
    newest, life = -1, 0
    for kind, body in packets[1:]:
        if kind == _SUBKEY:
            break
        if kind != _SIGNATURE or len(body) < 6 or body[0] != 4:
            continue
        if body[1] == _REVOKED:
            raise NotOneKey("it has been revoked")
        said = _said(body[6 : 6 + int.from_bytes(body[4:6], "big")])
        if body[1] in _ABOUT_KEY and said.get(_CREATED, 0) > newest:
            newest, life = said.get(_CREATED, 0), said.get(_EXPIRES, 0)
    if life and created + life <= now:
        over = time.strftime("%Y-%m-%d", time.gmtime(created + life))
        raise NotOneKey(f"it expired on {over}")


def _said(area):
    """The numbers in a signature's signed area, by type of subpacket."""
    said, place = {}, 0
    while place < len(area):
        length, place = _length(area, place)
        body = area[place : place + length]
        if body:
            said[body[0] & 0x7F] = int.from_bytes(body[1:5], "big")
        place += length
    return said
