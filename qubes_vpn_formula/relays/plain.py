# SPDX-License-Identifier: GPL-2.0-or-later
"""Our own format for the relays of any provider, CSV or JSON: docs/relays.md explains it."""

import csv

from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.relays.relay import Relay, RelayList, Unusable, address, hostname, word
from qubes_vpn_problem import show, suggest

_NEEDED = ("hostname", "address", "port", "proto")
_OTHER = ("country", "city", "owner", "hosted_by", "active", "public_key")
_FIX = "docs/relays.md has the format."


def from_csv(text, path):
    """The :class:`RelayList` in *text*, whose first line names the columns."""
    lines = ["" if line.startswith("#") else line for line in text.splitlines()]
    first = next((place for place, line in enumerate(lines) if line.strip()), 0)
    try:
        reader = csv.DictReader(lines[first:], strict=True, skipinitialspace=True)
        reader.fieldnames = [column.strip().lower() for column in reader.fieldnames or ()]
        _check_columns(reader.fieldnames, path)
        rows = [(f"line {first + reader.line_num}", row) for row in reader]
    except csv.Error:
        raise UserError(
            "neither JSON nor CSV", f"Mend its commas and quotes. {_FIX}", file=path
        ) from None
    return _relay_list(rows, path)


def from_json(rows, path):
    """The :class:`RelayList` of *rows*, a list of mappings."""
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"relay {number} is {show(row)}, not a mapping", _FIX, file=path)
        _check_columns(row, path)
    return _relay_list([(f"relay {number}", row) for number, row in enumerate(rows, 1)], path)


def _check_columns(columns, path):
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        what = "not a relay list" if len(missing) == len(_NEEDED) else f"no {missing[0]} is given"
        raise UserError(what, f"A list has {', '.join(_NEEDED)}. {_FIX}", file=path)
    for name in columns:
        if name not in (*_NEEDED, *_OTHER):
            raise UserError(
                f"unknown column {show(name)}", suggest(name, (*_NEEDED, *_OTHER)), file=path
            )


def _relay_list(rows, path):
    seen, found = set(), []
    for place, row in rows:
        try:
            relay = _relay(row)
            if relay in seen:
                raise Unusable("it is listed twice")
        except Unusable as error:
            raise UserError(f"{place}: {error}", f"Mend or remove it. {_FIX}", file=path) from None
        seen.add(relay)
        found.append(relay)
    return RelayList(path, "plain", tuple(found))


def _relay(row):
    if None in row or None in row.values():
        raise Unusable("it has more or fewer values than columns")
    row = {key: value.strip() if isinstance(value, str) else value for key, value in row.items()}
    proto, owner = row["proto"], row.get("owner", "")
    if proto not in ("udp", "tcp"):
        raise Unusable(f"{show(proto)} is neither udp nor tcp")
    if owner not in ("", "owned", "rented"):
        raise Unusable(f"{show(owner)} is neither owned nor rented")
    active = row.get("active", True)
    if isinstance(active, str):
        active = {"": True, "true": True, "false": False}.get(active)
    if not isinstance(active, bool):
        raise Unusable("active is neither true nor false")
    return Relay(
        hostname=hostname(row["hostname"]),
        country=word(row.get("country"), "country").lower(),
        city=word(row.get("city"), "city").lower(),
        owner=owner,
        hosted_by=word(row.get("hosted_by"), "company"),
        active=active,
        addresses=(address(row["address"]),),
        port=_port(row["port"]),
        proto=proto,
        key=str(row.get("public_key", "")),
    )


def _port(value):
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 6):
        raise Unusable(f"{show(value)} is not a port")
    if not 1 <= int(text) <= 65535:
        raise Unusable(f"port {int(text)} is not from 1 to 65535")
    return int(text)
