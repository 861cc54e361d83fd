# SPDX-License-Identifier: GPL-2.0-or-later
"""A packet's whole way through a qube: hook after hook."""

from dataclasses import dataclass

import z3

from qubes_vpn_formula.prove.packet import Packet
from qubes_vpn_formula.prove.ruleset import Ruleset
from qubes_vpn_formula.prove.walk import Names, Outcome


@dataclass(frozen=True)
class Way:
    """A packet's way.

    hooks: name and outcome of each, in order.  through: it got to the end.  packet: how it looks
    there.  arrived: how it looked when the kernel chose where to send it.
    """

    hooks: tuple[tuple[str, Outcome], ...]
    through: z3.BoolRef
    packet: Packet


def forwarded(ruleset: Ruleset, packet: Packet, open_sets: Names = frozenset()) -> Way:
    """In by one device and out by another: prerouting, forward, postrouting, egress.

    Which device it goes out by is the packet's out_*: whatever routing decides is allowed.
    """
    raise NotImplementedError


def sent(ruleset: Ruleset, packet: Packet, open_sets: Names = frozenset()) -> Way:
    """The qube's own: output, postrouting, egress."""
    raise NotImplementedError


def received(ruleset: Ruleset, packet: Packet, open_sets: Names = frozenset()) -> Way:
    """For the qube itself: prerouting, input."""
    raise NotImplementedError
