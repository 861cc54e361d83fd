# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules with one fault of each network qube's, which a proof has to refute (R90, R91)."""

import re
from dataclasses import replace

from qubes_vpn_formula.prove.machine import Place
from qubes_vpn_formula.prove.sources import Part

RULES = "salt/qubes/network/files/closed.nft"
RESOLVER = "salt/qubes/network/files/dns-closed.nft"
GATE = "killswitch: the uplink's gate"
#: Of each rule that is at fault.
MARK = 'comment "fault"'


def faulty(place: Place) -> Place:
    """*place* with a leak of its kind, and asked about that alone.

    A tunnel's: clients' packets get out by the uplink; a resolver's: their DNS goes past it; an
    upstream qube's list: one port more is let through.
    """
    kind = next(one for one in ("P8", "P8L", "P3R", "P1") if one in place.properties)
    parts = tuple(part._replace(text=_FAULTS[kind](part)) for part in place.parts)
    assert parts != place.parts
    return replace(place, parts=parts, properties=(kind,))


def _forwards(part: Part) -> str:
    """Nothing looks behind it, either."""
    text = part.text
    if part.name == RULES:
        for chain in ("client_out", "postrouting"):
            head, block, tail = text.rpartition(f"\tchain {chain} {{\n")
            text = f"{head}{block}\t\taccept {MARK}\n{tail}"
    return text.replace("counter drop", f"accept {MARK}") if part.name == GATE else text


def _asks(part: Part) -> str:
    block = "\tchain not_forwarded {\n"
    fault = f"{block}\t\taccept {MARK}\n"
    return part.text.replace(block, fault) if part.name == RESOLVER else part.text


def _admits(part: Part) -> str:
    def one_more(found: re.Match[str]) -> str:
        return f"dport {found[1]}-{int(found[1]) + 1} accept {MARK}"

    ours = part.name.startswith("dom0's list of ")
    return re.sub(r"dport (\d+) accept", one_more, part.text) if ours else part.text


_FAULTS = {"P1": _forwards, "P3R": _asks, "P8": _admits, "P8L": _admits}
