# SPDX-License-Identifier: GPL-2.0-or-later
"""Logins that lie in a template, by file name and first lines: what they hold is never told.

Every qube of the template would have them, and the same device key; with some providers they count
as devices.  They belong in the VPN qube, ``/rw/config/vpn/credentials/``.
"""

import json
import os
import re
import stat
from pathlib import Path

_ROOT = Path("/")
#: Where programs and users leave profiles and keys.  Every file there that holds a secret counts.
_PLACES = (
    "etc/NetworkManager/system-connections/*",
    "run/NetworkManager/system-connections/*",
    "usr/lib/NetworkManager/system-connections/*",
    "rw/bind-dirs/etc/NetworkManager/system-connections/*",
    "rw/config/NM-system-connections/*",
    "etc/wireguard/*",
    *(
        f"{folder}/*.{kind}"
        for folder in ("root", "home/*", "home/*/Downloads")
        for kind in ("ovpn", "conf", "nmconnection")
    ),
)
#: Where files come from other qubes, or are a tunnel's: of any name, also a login of two lines.
_ANY_NAME = ("etc/openvpn/**/*", "home/*/QubesIncoming/**/*")
#: Names under which this project has a login: beside a profile, and the Mullvad app's.
_NAMES = re.compile(r".+\.auth\Z|mullvad-account\Z")
_NAMED = ("root", "home/*", "home/*/Downloads", "etc", "etc/wireguard")
#: Where whatever lies there is a secret: our own, and what NetworkManager's OpenVPN plugin and its
#: editor take out of a profile (``~/.cert/nm-openvpn``, ``networkmanagement/certificates``).
_SECRET_PLACES = (
    "rw/config/vpn/credentials/**/*",
    "root/.cert/nm-openvpn/*",
    "home/*/.cert/nm-openvpn/*",
    "root/.local/share/networkmanagement/certificates/**/*",
    "home/*/.local/share/networkmanagement/certificates/**/*",
)
#: The Mullvad app's (mullvadvpn-app ``mullvad-daemon/src/device`` and ``account_history.rs``).
_MULLVAD = ("etc/mullvad-vpn", "rw/bind-dirs/etc/mullvad-vpn")
#: Qubes' own uplink has none, and is not looked into.
_QUBES_OWN = re.compile(r"qubes-uplink-")
# Blanks, not \s: over a file of empty lines that takes the square of its length.
_SECRET = re.compile(
    rb"^[ \t]*(?:private-?key|preshared-?key|psk|password|secret|[a-z0-9-]+-(?:password|pass|psk))"
    rb"[ \t]*=[ \t]*\S|-----BEGIN [A-Z ]*PRIVATE KEY|^[ \t]*<(?:key|pkcs12|auth-user-pass)>"
    rb"|^[ \t]*auth-user-pass\s+\S|^[ \t]*\[(?:vpn|wireguard)[a-z-]*\]",
    re.MULTILINE | re.IGNORECASE,
)
#: A user's name and a password, alone in a file, or a Mullvad account's number.
_LOGIN = re.compile(rb"\s*(?:[^\s#<\[{][^\r\n]{0,200}\r?\n[^\s#<\[{][^\r\n]{0,200}|\d{16})\s*\Z")
_SPACES = re.compile(rb"\S+\s+\S+\s+\S")
#: Bytes of a file that are looked at; profiles are shorter.
_MOST = 1024 * 1024


def found():
    """The files that hold a login, as texts, sorted."""
    told = {path for place in _SECRET_PLACES for path in _files(place)}
    for place in _PLACES:
        told |= {path for path in _files(place) if not _QUBES_OWN.match(path.name)
                 and _SECRET.search(_read(path))}  # fmt: skip
    for place in _ANY_NAME:
        told |= {path for path in _files(place) if _NAMES.match(path.name)
                 or _SECRET.search(data := _read(path)) or _is_login(data)}  # fmt: skip
    for folder in _NAMED:
        told |= {path for path in _files(f"{folder}/*") if _NAMES.match(path.name)}
    told |= {path for path in _links("etc/wireguard/*") if _SECRET.search(_read(path.resolve()))}
    for folder in _MULLVAD:
        told |= {path for path in _files(f"{folder}/device.json") if is_logged_in(_read(path))}
        history = _files(f"{folder}/account-history.json")
        told |= {path for path in history if re.search(rb"\d", _read(path))}
    return sorted(str(path) for path in told)


def _files(pattern):
    """Files (no links, no devices) by *pattern*."""
    for path in _ROOT.glob(pattern):
        try:
            if stat.S_ISREG(path.lstat().st_mode):
                yield path
        except OSError:
            continue


def _links(pattern):
    """Links by *pattern* that lead to files below the same root, where they are read."""
    for path in _ROOT.glob(pattern):
        try:
            if path.is_symlink() and stat.S_ISREG(path.stat().st_mode):
                yield path
        except (OSError, RuntimeError):  # a loop is the latter before Python 3.13
            continue


def _is_login(data):
    """Whether *data* is a login and nothing else: two lines, of one or two words each."""
    short = len(data) < 1000 and _LOGIN.match(data)
    return bool(short) and not any(map(_SPACES.match, data.splitlines()))


def _read(path):
    """The beginning of a file; what root cannot read cannot be told from a login."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return file.read(_MOST)
    except OSError:
        return b"password = ?"


def is_logged_in(data):
    """Whether *data* is anything but what the app writes when nobody is logged in."""
    try:
        return json.loads(data) != "logged_out"
    except ValueError:
        return bool(data.strip())
