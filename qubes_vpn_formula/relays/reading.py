# SPDX-License-Identifier: GPL-2.0-or-later
"""A file with a relay list to a :class:`RelayList`: the whole of it is right, or it is refused."""

import json
from pathlib import Path

from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.relays import mullvad, plain

#: Bytes; the largest list that is known, of 590 relays, has 744,104.
MOST_BYTES = 16 * 2**20
MOST_RELAYS = 20_000


def read(path):
    """The :class:`~qubes_vpn_formula.relays.relay.RelayList` at *path*; raises `UserError`."""
    text = text_of(path)
    start = text.lstrip()[:200].lower()
    if not start:
        raise UserError("the file is empty", f"Get the list again. {mullvad.WHERE}", file=path)
    if start.startswith("<"):
        raise UserError(
            "this is a web page, not a relay list",
            f"Get the list itself. {mullvad.WHERE}",
            file=path,
        )
    found = _json(text, path) if start[0] in "{[" else plain.from_csv(text, path)
    if len(found.relays) > MOST_RELAYS:
        raise UserError(
            f"{len(found.relays):,} relays, which no provider has",
            f"Get a list of no more than {MOST_RELAYS:,}.",
            file=path,
        )
    return found


def text_of(path):
    """The text of a file; never more is read than a list can have, also from a device or a pipe."""
    try:
        with Path(path).open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or "it failed").lower()
        raise UserError(f"cannot be read: {reason}", "Check the name.", file=path) from None
    if len(raw) > MOST_BYTES:
        raise UserError(
            f"larger than {MOST_BYTES // 2**20} MiB, so it is no relay list",
            f"Get the list again. {mullvad.WHERE}",
            file=path,
        )
    try:
        if b"\0" in raw:
            raise ValueError
        return raw.decode("utf-8-sig")
    except ValueError:
        raise UserError(
            "not UTF-8 text", f"Get the list again. {mullvad.WHERE}", file=path
        ) from None


def _json(text, path):
    try:
        found = json.loads(text)
    except RecursionError:
        raise UserError(
            "nested too deeply to be a relay list", f"Get it again. {mullvad.WHERE}", file=path
        ) from None
    except ValueError as error:
        line = getattr(error, "lineno", None)
        raise UserError(
            "not JSON", f"Get the relay list again. {mullvad.WHERE}", file=path, line=line
        ) from None
    if isinstance(found, dict) and isinstance(found.get("relays"), list):
        return plain.from_json(found["relays"], path)
    return mullvad.relay_list(found, path)
