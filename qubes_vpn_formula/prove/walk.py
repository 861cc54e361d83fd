# SPDX-License-Identifier: GPL-2.0-or-later
"""A packet through one hook: all its base chains by priority, as terms of the solver."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import z3

from qubes_vpn_formula.prove.packet import Packet
from qubes_vpn_formula.prove.ruleset import Chain, Rule, Ruleset

#: Sets that are left open: their elements are any, the same at each look.
Names = AbstractSet[tuple[str, str, str]]


@dataclass(frozen=True)
class Step:
    """Something that a packet may meet on its way.

    where: the rule; the base chain for its policy; a text for what the kernel does by itself.
    met: a truth: the packet gets there and everything that the rule compares is so.
    what: the verdict or the change, in words.
    """

    where: Rule | Chain | str
    met: z3.BoolRef
    what: str


@dataclass(frozen=True)
class Outcome:
    """What became of a packet that entered under a condition; the three exclude each other.

    rejected: dropped, and the sender is told.  packet: how it looks where it is accepted.
    trace: in the order of meeting.
    """

    accepted: z3.BoolRef
    dropped: z3.BoolRef
    rejected: z3.BoolRef
    packet: Packet
    trace: tuple[Step, ...]


def walk(
    ruleset: Ruleset,
    hook: str,
    packet: Packet,
    given: z3.BoolRef | None = None,
    open_sets: Names = frozenset(),
) -> Outcome:
    """*packet* through *hook*: prerouting, input, forward, output, postrouting, ingress or egress.

    given: the condition under which it gets there; always, when None.  open_sets: (family, table,
    name) of sets whose elements are not looked at: membership is a function of the key of which
    nothing is known, so what is proven holds for any elements.  Raises NotModelled.
    """
    raise NotImplementedError
