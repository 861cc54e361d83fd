# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures of a machine's network: a forest (``tree``), as text, SVG (``layout``, ``svg``), PNG."""

from typing import NamedTuple


class View(NamedTuple):
    """One machine to be drawn.

    title: over it.  qubes: ``qubes_vpn_network.Qube``.  notes: ``(text, way)``, lines under it.
    was: of qubes that a plan moves or makes, what they were before: ``{name: "was sys-net"}``.
    ways: ``qubes_vpn_observers.Way``, for a table of who sees what.
    """

    title: str
    qubes: list
    notes: tuple = ()
    was: dict = {}  # noqa: RUF012 - nobody writes to it
    ways: tuple = ()
