# SPDX-License-Identifier: GPL-2.0-or-later
"""The network as a table: each qube, its address, its netvm, where it gets out, and as whom."""

import qubes_vpn_guard
from qubes_vpn_network import CLEAR, CLOSED, OFFLINE, SHELTERED, UPLINK

HEADS = ("qube", "address", "netvm", "exit", "exit address")
NOT_ASKED, UNKNOWN, NOTHING = "not asked", "not known", "-"


def rows(qubes, seen=None):
    """A mapping by ``HEADS`` for each of *qubes* (``qubes_vpn_network.Qube``).

    seen: ``{name: text}``, the addresses that tunnels and uplinks were asked for.
    """
    wiring = {qube.name: qube.netvm for qube in qubes}
    return [_row(qube, wiring, seen or {}) for qube in qubes]


def _row(qube, wiring, seen):
    end = qubes_vpn_guard.path(qube.name, wiring)[-1]
    out, by = {
        UPLINK: ("is the uplink", qube.name),
        SHELTERED: (qube.exit, qube.exit),
        CLEAR: (qube.clear().replace("in clear", f"IN CLEAR by {end}"), end),
        CLOSED: ("cut off", None),
        OFFLINE: ("offline", None),
    }[qube.way]
    address = seen.get(by, NOT_ASKED) if by else NOTHING
    ip = qube.ip or (NOTHING if qube.way == OFFLINE else UNKNOWN)
    found = (qube.name, ip, qube.netvm or NOTHING, out, address)
    return dict(zip(HEADS, found, strict=True))


def text(found):
    """Those rows as lines, for a screen."""
    return columns([[row[head] for head in HEADS] for row in found], HEADS)


def columns(lines, heads):
    """Texts below each other, two blanks between the columns, the heads in capitals above."""
    lines = [[head.upper() for head in heads], *lines]
    widths = [max(len(line[place]) for line in lines) for place in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
