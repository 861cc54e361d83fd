# SPDX-License-Identifier: GPL-2.0-or-later
"""A packet that breaks a property, as data: what it is, what it meets, and the rules it meets."""

import ipaddress
from typing import Any

import z3

from qubes_vpn_formula.prove.machine import Place
from qubes_vpn_formula.prove.packet import (
    ARP,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    PORTED,
    STATES,
    TCP,
    UDP,
    Packet,
    read,
)
from qubes_vpn_formula.prove.path import Way
from qubes_vpn_formula.prove.properties import Claim
from qubes_vpn_formula.prove.ruleset import Chain, Rule
from qubes_vpn_formula.prove.sources import Line, Lines

#: Of the file that `qubes-vpn lab --replay` reads.
VERSION = 1
_FAMILIES = {IPV4: "IPv4", IPV6: "IPv6", ARP: "ARP"}
_PROTOCOLS = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "icmpv6"}
_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
#: What the file has of a packet; for everything else a replay has no use.
_KEPT = (
    "ethertype", "source", "destination", "header_words", "loose_route", "strict_route",
    "next_header", "routing_header", "hop_limit", "protocol_known", "protocol", "later_fragment",
    "transport_bytes", "source_port", "destination_port", "tcp_flags", "in_index", "in_name",
    "in_kind", "in_group", "out_index", "out_name", "out_kind", "out_group", "mark", "state",
    "first", "reply", "original_source", "original_destination", "original_protocol",
    "original_source_port", "original_destination_port", "flow_new_source",
    "flow_new_destination",
)  # fmt: skip


def of(claim: Claim, model: z3.ModelRef, place: Place, lines: Lines) -> dict[str, Any]:
    """The counterexample that the solver has found, ready for JSON."""
    fields, ends = _plain(claim.packet, model), _plain(claim.way.packet, model)
    return {
        "version": VERSION,
        "property": claim.id,
        "claim": claim.text,
        "qube": place.qube,
        "stage": place.stage,
        "told": told(fields),
        "leaves": claim.leaves,
        "packet": fields,
        "ends_as": ends,
        # Only by a flowtable a packet loses the flow that it came with.
        "offloaded": ends["state"] == "invalid" != fields["state"],
        "hooks": [name for name, _ in claim.way.hooks],
        "path": list(_path(claim.way, model, lines)),
        "rules": place.text if place.document is None else place.document,
    }


def _plain(packet: Packet, model: z3.ModelRef) -> dict[str, Any]:
    """Values as a file has them: addresses and names as texts."""
    values = read(packet, model)
    found = {name: values[name] for name in _KEPT}
    for name, value in found.items():
        if name.endswith(("_name", "_kind")):
            found[name] = value.to_bytes(16, "big").rstrip(b"\0").decode("latin-1")
        elif name in ("source", "destination") or name.endswith(("_source", "_destination")):
            found[name] = _address(value, values["ethertype"])
    found["state"] = next((name for name, bit in STATES.items() if bit == values["state"]), "")
    return found


def _address(value: int, ethertype: int) -> str:
    if ethertype != IPV6 and value < 1 << 32:
        return str(ipaddress.IPv4Address(value))
    return str(ipaddress.IPv6Address(value))


def told(packet: dict[str, Any]) -> str:
    """One line for people: `UDP from 10.137.0.4:40000 to 9.9.9.9:53, in by vif4.0, out by eth0`."""
    if packet["ethertype"] not in (IPV4, IPV6):
        kind = _FAMILIES.get(packet["ethertype"], f"frame of type {packet['ethertype']:#06x}")
        return f"{kind}, out by {packet['out_name']}"
    protocol = packet["protocol"]
    words = [_FAMILIES[packet["ethertype"]], _PROTOCOLS.get(protocol, f"protocol {protocol}")]
    ported = protocol in PORTED and not packet["later_fragment"]
    if packet["later_fragment"]:
        words.append("(a later fragment)")
    elif protocol == TCP:
        words.append("+".join(n for b, n in enumerate(_FLAGS) if packet["tcp_flags"] >> b & 1))
    elif protocol in (ICMP, ICMPV6):
        words.append(f"type {packet['source_port'] >> 8} code {packet['source_port'] & 255}")
    for word, side in (("from", "source"), ("to", "destination")):
        address = packet[side]
        port = packet[f"{side}_port"]
        ended = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        words += [word, ended if ported else address]
    text = " ".join(word for word in words if word)
    if packet["in_index"]:
        text += f", in by {packet['in_name']}"
    if packet["out_index"]:
        text += f", out by {packet['out_name']}"
    way = ", in reply" if packet["reply"] else ""
    return f"{text}, {packet['state']}{way}"


def _path(way: Way, model: z3.ModelRef, lines: Lines) -> Any:
    for hook, outcome in way.hooks:
        for step in outcome.trace:
            if z3.is_true(model.eval(step.met, model_completion=True)):
                yield {"hook": hook, **_where(step.where, lines), "does": step.what}


def _where(where: Rule | Chain | str, lines: Lines) -> dict[str, Any]:
    if isinstance(where, str):
        return {"text": where}
    if isinstance(where, Chain):
        return {"chain": str(where), "text": "the chain's policy"}
    line = line_of(where, lines)
    chain = f"{where.family} {where.table} {where.chain}"
    if line is None:
        return {"chain": chain, "rule": where.index + 1, "text": where.text or str(where)}
    return {"chain": chain, "file": line.file, "line": line.number, "text": line.text}


def line_of(rule: Rule, lines: Lines) -> Line | None:
    """Where a rule was written; None when that is not known."""
    known = lines.get((rule.family, rule.table, rule.chain), [])
    return known[rule.index] if rule.index < len(known) else None
