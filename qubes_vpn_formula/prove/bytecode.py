# SPDX-License-Identifier: GPL-2.0-or-later
"""What a rule compares in the kernel and nft's listing leaves out.

Any nft leaves out which family a `reject with tcp reset` is for, and that a device has to be of
Ethernet (`ether type ip ip saddr ...`).  nft 1.0.6 writes `meta l4proto 47 th dport 5` and
`ip6 nexthdr 60 th dport 5` as `th dport 5`; nft 1.1.3 and later do not.  `--debug=netlink` shows
what the kernel has.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from qubes_vpn_formula.prove import values
from qubes_vpn_formula.prove.notmodelled import NotModelled

#: A protocol that is compared: by what (as nft's JSON has it), and its number.
Compared = tuple[str, int]

_PLACE = re.compile(r"(\S+) (\S+) (\S+) (\d+)(?: \d+)?\s*")
_LOADS = re.compile(
    r"  \[ (?:meta load (l4proto|nfproto|protocol)|payload load 1b @ network header \+ ([69]))"
    r" => reg (\d+) \]\s*"
)
_EQUAL = re.compile(r"  \[ cmp eq reg (\d+) 0x([0-9a-f]+) \]\s*")
#: A rejection with it is for one family, or for both, and nft does not list for which.
RESET = "tcp reset"
_BY = {
    "l4proto": {"meta": {"key": "l4proto"}},
    "9": {"payload": {"protocol": "ip", "field": "protocol"}},
    "6": {"payload": {"protocol": "ip6", "field": "nexthdr"}},
}
#: What only Ethernet has.
_LINK = re.compile(r"  \[ (?:meta load iiftype|payload load \d+b @ link header) ")


def compared(text: str) -> dict[tuple[str, str, str, int], list[Compared]]:
    """The protocols that each rule compares, by family, table, chain and handle.

    Raises NotModelled where one looks at the link layer: nft does not always list that.
    """
    found: dict[tuple[str, str, str, int], list[Compared]] = {}
    place, loaded = None, None
    for line in text.splitlines():
        if at := _PLACE.fullmatch(line):
            place = at[1], at[2], at[3], int(at[4])
            found[place] = []
        elif place and _LINK.match(line):
            raise NotModelled(" ".join(place[:3]), "a comparison with a link's header or type")
        elif place and (equal := _EQUAL.fullmatch(line)) and loaded and loaded[1] == equal[1]:
            found[place].append((loaded[0], int(equal[2], 16)))
        loads = _LOADS.fullmatch(line)
        loaded = (loads[1] or loads[2], loads[3]) if loads else None
    return found


def reads_any_transport(statement: dict[str, Any]) -> bool:
    """Whether it has a `th`."""
    return '"protocol": "th"' in json.dumps(statement)


def put_back(rule: dict[str, Any], known: list[Compared]) -> None:
    """The protocols of *known* that nft left out of *rule* stand before its first `th`.

    Raises NotModelled where something is changed before that: nothing says whether before the
    comparison, too.
    """
    statements = rule["expr"]
    for one in statements:
        if (one.get("reject") or {}).get("type") == RESET:
            one["reject"]["compared"] = known
    known = [one for one in known if one[0] in _BY]
    first = next((n for n, one in enumerate(statements) if reads_any_transport(one)), None)
    hidden = Counter(known) - Counter(_listed(statements))
    if first is None or not hidden:
        return
    if any(one.keys() & {"mangle", "notrack", "limit", "quota"} for one in statements[:first]):
        where = f"{rule['family']} {rule['table']} {rule['chain']}"
        raise NotModelled(where, "a protocol that nft does not list, and a change before it,")
    statements[first:first] = [
        {"match": {"op": "==", "left": _BY[by], "right": number}} for by, number in hidden
    ]


def _listed(statements: list[dict[str, Any]]) -> Iterator[Compared]:
    for statement in statements:
        match = statement.get("match", {})
        for by, left in _BY.items():
            if match.get("left") == left and match["op"] == "==" and not _several(match["right"]):
                yield by, values.single("inet_proto", match["right"], "a protocol")


def _several(right: Any) -> bool:
    return isinstance(right, dict)
