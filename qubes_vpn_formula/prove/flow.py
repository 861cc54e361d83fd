# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets of one flow: what they have in common."""

import z3

from qubes_vpn_formula.prove.packet import PORTED, STATES, TUPLE, Packet
from qubes_vpn_formula.prove.terms import both, equal, not_

_ENDS = ("source", "destination", "source_port", "destination_port")
_OTHER = {"source": "destination", "source_port": "destination_port"}
_OTHER |= {other: end for end, other in _OTHER.items()}
_DEVICE = ("index", "name", "kind", "group")


def begins(packet: Packet) -> z3.BoolRef:
    """It is the first of a flow."""
    return both(_whole(packet), packet.in_state("new"), packet.first)


def goes_on(packet: Packet) -> z3.BoolRef:
    """It is of a flow that conntrack knows, and not its first."""
    known = packet.in_state("new", "established", "related")
    return both(_whole(packet), known, not_(packet.first))


def _whole(packet: Packet) -> z3.BoolRef:
    """It has ports.  What is cut short is invalid to conntrack; a flowtable takes no fragment."""
    whole = both(not_(packet.later_fragment), z3.UGE(packet.transport_bytes, 8))
    return both(packet.is_protocol(*PORTED), whole)


def offloaded(packet: Packet) -> Packet:
    """How it leaves when its flow is offloaded: translated as that is, with no flow to be seen."""
    new = {end: getattr(packet, f"flow_new_{end}") for end in _ENDS}
    return packet.having(state=STATES["invalid"], **new)


def same(one: Packet, other: Packet) -> z3.BoolRef:
    """Both are of one flow, which goes by the same two devices."""
    mine, others = _flow(one), _flow(other)
    return both(*[equal(mine[name], others[name]) for name in mine])


def began(later: Packet, first: Packet, translated: Packet) -> z3.BoolRef:
    """*later* is of the flow that *first* began, which left as *translated*."""
    begun = {name: getattr(first, name) for name in ("ethertype", "protocol")}
    begun |= {f"begun with {end}": getattr(first, end) for end in _ENDS}
    begun |= {f"became {end}": getattr(translated, end) for end in _ENDS}
    begun |= {f"{side} {what}": getattr(first, f"{side}_{what}")
              for side in ("in", "out") for what in _DEVICE}  # fmt: skip
    mine = _flow(later)
    tracked = [equal(getattr(later, f"original_{name}"), getattr(first, name)) for name in TUPLE]
    return both(*tracked, *[equal(mine[name], begun[name]) for name in mine])


def _flow(packet: Packet) -> dict[str, z3.ExprRef]:
    """What is the same of each packet of a flow, of those in reply, too."""
    found = {name: getattr(packet, name) for name in ("ethertype", "protocol")}
    for end in _ENDS:
        other = _OTHER[end]
        new, new_other = getattr(packet, f"flow_new_{end}"), getattr(packet, f"flow_new_{other}")
        found[f"begun with {end}"] = z3.If(packet.reply, new_other, getattr(packet, end))
        found[f"became {end}"] = z3.If(packet.reply, getattr(packet, other), new)
    for what in _DEVICE:
        came, goes = getattr(packet, f"in_{what}"), getattr(packet, f"out_{what}")
        found[f"in {what}"] = z3.If(packet.reply, goes, came)
        found[f"out {what}"] = z3.If(packet.reply, came, goes)
    return found
