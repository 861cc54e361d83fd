# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether any packet gets through several firewall lists, one after the other.

Each netvm on a qube's way translates the source only, so the same destination is asked of the
qube's own list, then of its netvm's, and so on.  A list is its first matching rule, and a drop at
its end (qubes-core-agent-linux, ``qubesagent/firewall.py``).

What a list cannot be held to counts against it: a host name may be any address, a rule that
expires may be there or not, and what ``specialtarget=dns`` means is the netvm's affair.
"""

import functools
import ipaddress
from typing import NamedTuple

_ALL = {4: (0, 2**32 - 1), 6: (0, 2**128 - 1)}
_PROTOCOLS = ("tcp", "udp", "icmp", "other")
_PORTS = (0, 65535)
#: DNS is told apart from everything else.
DNS = 53


class Box(NamedTuple):
    """Packets that a rule is about: of families, protocols, addresses and ports.

    addresses: (first, last) by family.  certain: whether it matches all of them for certain.
    """

    accepts: bool
    addresses: dict
    protocols: tuple
    ports: tuple
    certain: bool


class Packet(NamedTuple):
    """A destination: family 4 or 6, address as a number, protocol, port (of ICMP: its type)."""

    family: int
    address: int
    protocol: str
    port: int


def through(lists, dns):
    """A :class:`Packet` that may pass all *lists* (each a tuple of rules), or None.

    dns: True for one to port 53 by TCP or UDP, False for any other.
    """
    lists = [_boxes(each) for each in lists]
    for protocol in ("tcp", "udp") if dns else _PROTOCOLS:
        of_it = [[box for box in each if protocol in box.protocols] for each in lists]
        for port in _ports(of_it, protocol, dns):
            here = [[box for box in each if _within(port, box.ports)] for each in of_it]
            for family in (4, 6):
                own = [[box for box in each if family in box.addresses] for each in here]
                address = _address(own, family)
                if address is not None:
                    return Packet(family, address, protocol, port)
    return None


def _ports(lists, protocol, dns):
    """Ports at which a packet may begin to pass."""
    if dns:
        return [DNS]
    ports = _corners([box.accepts, *box.ports] for each in lists for box in each)
    return [port + (port == DNS) for port in ports] if protocol in ("tcp", "udp") else ports


def _address(lists, family):
    """The least address that passes all *lists*, of which every rule is about it otherwise."""
    if not all(any(box.accepts for box in each) for each in lists):
        return None
    spans = ([box.accepts, *box.addresses[family]] for each in lists for box in each)
    for address in _corners(spans):
        if all(_passes(each, family, address) for each in lists):
            return address
    return None


def _corners(spans):
    """Numbers of one axis, from 0, at which a packet may begin to pass: where it is let in, or is
    no longer kept out."""
    return sorted({0, *(first if accepts else last + 1 for accepts, first, last in spans)})


def _passes(boxes, family, address):
    for box in boxes:
        if _within(address, box.addresses[family]):
            if box.accepts:
                return True
            if box.certain:
                return False
    return False


def _within(number, span):
    return span[0] <= number <= span[1]


@functools.lru_cache(maxsize=4096)
def _boxes(rules):
    return tuple(_box(rule) for rule in rules)


def _box(rule):
    fields = dict(word.split("=", 1) for word in rule.split(" comment=")[0].split())
    certain = not {"dsthost", "expire", "specialtarget"} & fields.keys()
    addresses, protocols, ports = dict(_ALL), _PROTOCOLS, _PORTS
    for family in (4, 6):
        if f"dst{family}" in fields:
            network = ipaddress.ip_network(fields[f"dst{family}"], strict=False)
            addresses = {family: (int(network[0]), int(network[-1]))}
    if "proto" in fields:
        protocols = (fields["proto"],)
    if "dstports" in fields:
        first, _, last = fields["dstports"].partition("-")
        ports = (int(first), int(last or first))
        protocols = tuple(each for each in protocols if each in ("tcp", "udp"))
    if fields.get("specialtarget") == "dns":
        ports = (max(ports[0], DNS), min(ports[1], DNS))
        protocols = tuple(each for each in protocols if each in ("tcp", "udp"))
    if "icmptype" in fields:
        ports = (int(fields["icmptype"]),) * 2
        protocols = tuple(each for each in protocols if each == "icmp")
    return Box(fields["action"] == "accept", addresses, protocols, ports, certain)
