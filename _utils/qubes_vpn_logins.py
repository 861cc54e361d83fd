# SPDX-License-Identifier: GPL-2.0-or-later
"""Logins that lie in a template, by file name only: what they hold is never told.

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
    "etc/openvpn/**/*",
    *(
        f"{folder}/*.{kind}"
        for folder in ("root", "home/*", "home/*/Downloads", "home/*/QubesIncoming/*")
        for kind in ("ovpn", "conf", "nmconnection")
    ),
)
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
_SECRET = re.compile(
    rb"^\s*(?:private-?key|preshared-?key|psk|password|secret|[a-z0-9-]+-(?:password|pass|psk))"
    rb"\s*=\s*\S|-----BEGIN [A-Z ]*PRIVATE KEY|^\s*<(?:key|pkcs12|auth-user-pass)>"
    rb"|^\s*auth-user-pass\s+\S|^\s*\[(?:vpn|wireguard)[a-z-]*\]",
    re.MULTILINE | re.IGNORECASE,
)
#: Bytes of a file that are looked at; profiles are shorter.
_MOST = 1024 * 1024


def found():
    """The files that hold a login, as texts, sorted."""
    told = {path for place in _SECRET_PLACES for path in _files(place)}
    for place in _PLACES:
        told |= {path for path in _files(place) if not _QUBES_OWN.match(path.name)
                 and _SECRET.search(_read(path))}  # fmt: skip
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


def _read(path):
    """The beginning of a file; what root cannot read cannot be told from a login."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            return file.read(_MOST)
    except OSError:
        return b"password = ?"


def is_logged_in(data):
    """Whether *data* is anything but what the app writes when nobody is logged in."""
    try:
        return json.loads(data) != "logged_out"
    except ValueError:
        return bool(data.strip())
