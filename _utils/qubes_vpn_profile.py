# SPDX-License-Identifier: GPL-2.0-or-later
"""Providers' profiles: a WireGuard ``.conf`` or an OpenVPN ``.ovpn`` in, a :class:`Profile` out."""

from pathlib import Path

import qubes_vpn_openvpn
import qubes_vpn_types
import qubes_vpn_wireguard
from qubes_vpn_error import UserError, read_text
from qubes_vpn_profile_data import Profile

__all__ = ["MOST", "Profile", "read", "refuse_name", "split"]

_READERS = {".conf": qubes_vpn_wireguard, ".ovpn": qubes_vpn_openvpn}
#: Bytes that a profile or one of its files may have; real ones have a few thousand.
MOST = 256 * 1024

_NAMES = {".conf": "a WireGuard profile", ".ovpn": "an OpenVPN profile"}


def read(path):
    """The :class:`Profile` in the file *path*; raises :class:`UserError`."""
    kind, lines = split(path, read_text(path, MOST))
    return kind.parse(lines, path)


def split(path, text):
    """``(reader, lines)`` of a profile's *text*; raises :class:`UserError`.

    reader: the module for it, by the ending of *path*, which shows up in messages.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _READERS:
        raise UserError(
            "the name ends neither in .conf (WireGuard) nor in .ovpn (OpenVPN)",
            "Give the file the ending that fits.",
            file=path,
        )
    refuse_name(Path(path).name, path)
    if not text.strip():
        raise UserError("the file is empty", "Download the profile again.", file=path)
    lines = [line.rstrip("\r") for line in text.split("\n")]
    _refuse_other_shapes(path, suffix, lines)
    return _READERS[suffix], lines


def refuse_name(name, file=None, **place):
    """Raises :class:`UserError` at *place* unless *name* is that of a file that a pillar can hold.

    So it has neither a folder nor anything that a shell or a keyfile would read in its own way.
    """
    if qubes_vpn_types.File().read(name, (), []) is None:
        raise UserError(
            "the pillar cannot hold this file's name",
            "Rename it with letters, digits, '-', '_' and '.'.",
            file=file,
            **place,
        )


def _refuse_other_shapes(path, suffix, lines):
    """A web page or the other program's profile would only give puzzling errors further on."""
    for number, line in enumerate(lines, 1):
        line = line.strip().lower()
        if line.startswith(("<!doctype", "<html")):
            raise UserError(
                "this is a web page, not a profile",
                "Log in to the provider and download the profile itself.",
                file=path,
                line=number,
            )
        for other, reader in _READERS.items():
            if other != suffix and reader.is_first_line(line):
                raise UserError(
                    f"this is {_NAMES[other]} in a file named {suffix}",
                    f"Rename it to {Path(path).stem}{other}.",
                    file=path,
                    line=number,
                )
        if _READERS[suffix].is_first_line(line):
            return
