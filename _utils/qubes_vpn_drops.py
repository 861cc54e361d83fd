# SPDX-License-Identifier: GPL-2.0-or-later
"""What the rules of VPN and resolver qubes stopped and noted, as rows, for dom0 (R66)."""

import time

import qubes_vpn_told
from qubes_vpn_table import columns

#: Which way a packet was going, as the qube saw it.
OWN, TO_IT, THROUGH = "its own", "to it", "through it"
HEADS = ("last", "qube", "direction", "from", "to", "protocol", "port", "times")
#: Of an answer.
SECONDS, MOST = 30, 1024**2
_OFF = "its rules note nothing (pillar: log_drops, of a tunnel)."


def read(data):
    """The answer of one qube: the form ``qubes_vpn_told.DROPS``; may raise ``NotUnderstood``."""
    return qubes_vpn_told.read(data, qubes_vpn_told.DROPS)


def merged(told, silent, names):
    """``(rows, silent)`` of *told*, ``{qube: answer}``, and *silent*, ``{qube: why}``."""
    found = [row for name, answer in told.items() for row in rows(name, answer, names)]
    off = {name: _OFF for name, answer in told.items() if not answer["log"]}
    return sorted(found, key=lambda row: -row["last"]), {**silent, **off}


def rows(name, told, names):
    """Rows by ``HEADS``, the newest first, of what the qube *name* told.

    Packets that differ in nothing that is shown are one row.  names: ``{address: qube}``.
    ``last``: seconds since 1970.
    """
    found = {}
    for packet in told["rows"]:
        direction = THROUGH if packet["in"] and packet["out"] else TO_IT if packet["in"] else OWN
        ends = (names.get(packet[end], packet[end]) for end in ("from", "to"))
        key = (name, direction, *ends, packet["protocol"].lower(), packet["to_port"])
        last, times = found.get(key, (0, 0))
        found[key] = max(last, packet["time"]), times + 1
    told_rows = [
        dict(zip(HEADS, (last, *key, times), strict=True)) for key, (last, times) in found.items()
    ]
    return sorted(told_rows, key=lambda row: -row["last"])


def text(found, silent):
    """Rows as lines for a screen, and why some qubes tell nothing: *silent*, ``{qube: why}``."""
    lines = [columns([_cells(row) for row in found], HEADS)] if found else []
    lines += [f"{name}: {why}" for name, why in sorted(silent.items())]
    return "\n".join(lines) or "Nothing was dropped, or there is no VPN or resolver qube."


def _cells(row):
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["last"]))
    cells = {**row, "last": when, "port": "" if row["port"] is None else row["port"]}
    return [str(cells[head]) for head in HEADS]
