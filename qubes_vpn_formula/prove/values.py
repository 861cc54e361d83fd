# SPDX-License-Identifier: GPL-2.0-or-later
"""Values in nft's JSON as intervals of numbers, by nft's names of types (`nft describe TYPE`)."""

import ipaddress
import re
from typing import Any

from qubes_vpn_formula.prove.notmodelled import NotModelled
from qubes_vpn_formula.prove.packet import LONGEST_NAME, LOOPBACK, STATES, name_number
from qubes_vpn_formula.prove.ruleset import Interval, Key

#: Bits of the types of keys that are modelled.
WIDTHS = {
    "boolean": 1,
    "ct_dir": 1,
    "ct_state": 8,
    "devgroup": 32,
    "ether_type": 16,
    "gid": 32,
    "icmp_code": 8,
    "icmp_type": 8,
    "icmpv6_code": 8,
    "icmpv6_type": 8,
    "iface_index": 32,
    "ifname": 128,
    "inet_proto": 8,
    "inet_service": 16,
    "ipv4_addr": 32,
    "ipv6_addr": 128,
    "mark": 32,
    "nf_proto": 8,
    "number4": 4,
    "number8": 8,
    "number16": 16,
    "tcp_flag": 8,
    "uid": 32,
}

#: nft's words for numbers, by type (nftables, src/proto.c and src/ct.c; IANA's for protocols).
_WORDS: dict[str, dict[str, int]] = {
    "ct_dir": {"original": 0, "reply": 1},
    "ct_state": STATES,
    "devgroup": {"default": 0},
    "ether_type": {"ip": 0x0800, "arp": 0x0806, "ip6": 0x86DD, "8021q": 0x8100, "vlan": 0x8100},
    "icmp_code": {
        "net-unreachable": 0,
        "host-unreachable": 1,
        "prot-unreachable": 2,
        "port-unreachable": 3,
        "frag-needed": 4,
        "net-prohibited": 9,
        "host-prohibited": 10,
        "admin-prohibited": 13,
    },
    "icmp_type": {
        "echo-reply": 0,
        "destination-unreachable": 3,
        "source-quench": 4,
        "redirect": 5,
        "echo-request": 8,
        "router-advertisement": 9,
        "router-solicitation": 10,
        "time-exceeded": 11,
        "parameter-problem": 12,
        "timestamp-request": 13,
        "timestamp-reply": 14,
        "info-request": 15,
        "info-reply": 16,
        "address-mask-request": 17,
        "address-mask-reply": 18,
    },
    "icmpv6_code": {
        "no-route": 0,
        "admin-prohibited": 1,
        "addr-unreachable": 3,
        "port-unreachable": 4,
        "policy-fail": 5,
        "reject-route": 6,
    },
    "icmpv6_type": {
        "destination-unreachable": 1,
        "packet-too-big": 2,
        "time-exceeded": 3,
        "parameter-problem": 4,
        "echo-request": 128,
        "echo-reply": 129,
        "mld-listener-query": 130,
        "mld-listener-report": 131,
        "mld-listener-done": 132,
        "mld-listener-reduction": 132,
        "nd-router-solicit": 133,
        "nd-router-advert": 134,
        "nd-neighbor-solicit": 135,
        "nd-neighbor-advert": 136,
        "nd-redirect": 137,
        "router-renumbering": 138,
        "ind-neighbor-solicit": 141,
        "ind-neighbor-advert": 142,
        "mld2-listener-report": 143,
    },
    "iface_index": {"lo": LOOPBACK},
    "inet_proto": {
        "icmp": 1,
        "igmp": 2,
        "ipencap": 4,
        "tcp": 6,
        "udp": 17,
        "dccp": 33,
        "ipv6": 41,
        "ipv6-route": 43,
        "ipv6-frag": 44,
        "gre": 47,
        "esp": 50,
        "ah": 51,
        "ipv6-icmp": 58,
        "icmpv6": 58,
        "ipv6-nonxt": 59,
        "ipv6-opts": 60,
        "sctp": 132,
        "udplite": 136,
    },
    "nf_proto": {"ipv4": 2, "ipv6": 10},
    "tcp_flag": {
        "fin": 1,
        "syn": 2,
        "rst": 4,
        "psh": 8,
        "ack": 16,
        "urg": 32,
        "ecn": 64,
        "cwr": 128,
    },
}
#: How nft 1.0.6 shows a number whose type it does not know.
_TYPELESS = re.compile(r"(0x[0-9a-f]+) \[invalid type\]\Z")


def key(kinds: tuple[str, ...], plain: Any, where: str) -> Key:
    """An element's key, of one part or a concatenation."""
    parts = plain["concat"] if isinstance(plain, dict) and "concat" in plain else [plain]
    if len(parts) != len(kinds):
        raise NotModelled(where, f"the element {plain}")
    return tuple(interval(kind, part, where) for kind, part in zip(kinds, parts, strict=True))


def interval(kind: str, plain: Any, where: str) -> Interval:
    """The values that *plain* stands for."""
    if plain == "*":  # which others it leaves out, and where it is listed, depends on nft
        raise NotModelled(where, "an element for all that has none")
    if isinstance(plain, dict):
        if "range" in plain:
            low, high = (single(kind, one, where) for one in plain["range"])
            if low > high:
                raise NotModelled(where, f"the range {plain['range']}")
            return low, high
        if "prefix" in plain:
            low = single(kind, plain["prefix"]["addr"], where)
            if not 0 <= plain["prefix"]["len"] <= WIDTHS[kind]:
                raise NotModelled(where, f"the prefix {plain['prefix']}")
            rest = (1 << WIDTHS[kind] - plain["prefix"]["len"]) - 1
            return low & ~rest, low | rest
    if kind == "ifname" and isinstance(plain, str) and _is_pattern(plain):
        start = _unescaped(plain[:-1]).encode("utf-8", "surrogateescape")
        if len(start) <= LONGEST_NAME:
            return (
                int.from_bytes(start.ljust(16, b"\0"), "big"),
                int.from_bytes(start.ljust(16, b"\xff"), "big"),
            )
    one = single(kind, plain, where)
    return one, one


def single(kind: str, plain: Any, where: str) -> int:
    """One value; several flags together are one."""
    if isinstance(plain, dict) and "|" in plain:
        plain = plain["|"]
    if isinstance(plain, list):
        found = 0
        for part in plain:
            found |= single(kind, part, where)
        return found
    found = _number(kind, plain)
    if found is None or not 0 <= found < 1 << WIDTHS[kind]:
        raise NotModelled(where, f"the {kind} {plain!r}")
    return found


def _number(kind: str, plain: Any) -> int | None:
    if isinstance(plain, int):  # True and False are 1 and 0
        return plain
    if not isinstance(plain, str):
        return None
    if kind == "ifname":
        return None if _is_pattern(plain) else _device(_unescaped(plain))
    if plain in _WORDS.get(kind, {}):
        return _WORDS[kind][plain]
    if typeless := _TYPELESS.match(plain):
        return int(typeless[1], 16)
    if kind in ("ipv4_addr", "ipv6_addr"):
        return _address(kind, plain)
    return int(plain) if plain.isdecimal() else None


def _address(kind: str, plain: str) -> int | None:
    try:
        found = ipaddress.ip_address(plain)
    except ValueError:
        return None
    return int(found) if found.max_prefixlen == WIDTHS[kind] else None


def _device(name: str) -> int | None:
    try:
        return name_number(name)
    except ValueError:
        return None


def _is_pattern(name: str) -> bool:
    return name.endswith("*") and not name.endswith("\\*")


def _unescaped(name: str) -> str:
    return name[:-2] + "*" if name.endswith("\\*") else name
