# SPDX-License-Identifier: GPL-2.0-or-later
"""Providers' profiles: a WireGuard ``.conf`` or an OpenVPN ``.ovpn`` in, a :class:`Profile` out."""

from pathlib import Path

import qubes_vpn_openvpn
import qubes_vpn_types
import qubes_vpn_wireguard
from qubes_vpn_error import UserError, read_text
from qubes_vpn_profile_data import Profile

__all__ = ["Profile", "read"]

_PARSERS = {".conf": qubes_vpn_wireguard, ".ovpn": qubes_vpn_openvpn}
_NAMES = {".conf": "a WireGuard profile", ".ovpn": "an OpenVPN profile"}


def read(path):
    """The :class:`Profile` in the file *path*; raises :class:`UserError`."""
    suffix = Path(path).suffix.lower()
    if suffix not in _PARSERS:
        raise UserError(
            "the name ends neither in .conf (WireGuard) nor in .ovpn (OpenVPN)",
            "Give the file the ending that fits.",
            file=path,
        )
    if qubes_vpn_types.File().read(Path(path).name, (), []) is None:
        raise UserError(
            "the pillar cannot hold this file's name",
            "Rename it with letters, digits, '-', '_' and '.'.",
            file=path,
        )
    text = read_text(path)
    if not text.strip():
        raise UserError("the file is empty", "Download the profile again.", file=path)
    lines = [line.rstrip("\r") for line in text.split("\n")]
    _refuse_other_shapes(path, suffix, lines)
    return _PARSERS[suffix].parse(lines, path)


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
        for other, parser in _PARSERS.items():
            if other != suffix and parser.is_first_line(line):
                raise UserError(
                    f"this is {_NAMES[other]} in a file named {suffix}",
                    f"Rename it to {Path(path).stem}{other}.",
                    file=path,
                    line=number,
                )
        if _PARSERS[suffix].is_first_line(line):
            return
