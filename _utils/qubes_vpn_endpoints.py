# SPDX-License-Identifier: GPL-2.0-or-later
"""A list of endpoints as text in a file, and as elements of the killswitch's sets.

The file is ``/rw/config/vpn/endpoints.txt`` of a VPN qube: one endpoint a line in the pillar's
grammar (:mod:`qubes_vpn_net`), ``#`` comments.  Everything in it is data: a list with one bad
line is no list.
"""

import ipaddress
import itertools
from typing import NamedTuple

import qubes_vpn_net

#: The largest file that is read, and the most endpoints in it: no provider has a tenth of them.
MOST_BYTES = 8 * 1024 * 1024
MOST_ENDPOINTS = 100_000
#: A prefix or a port range of no more addresses times ports than this is written out one by one.
WRITTEN_OUT = 64
#: The larger ones go into interval sets, which the kernel fills more slowly, and in which new
#: elements match a moment after the old ones are gone.
MOST_RANGES = 5_000
#: Addresses that prefixes may cover together (by IP version): 16 of the widest that an endpoint may
#: have.  A list that covers more is a part of the net, whatever its lines look like.
MOST_ADDRESSES = {4: 16 * 2**16, 6: 16 * 2**96}
#: Problems that are told one by one; the rest is counted.
_MOST_PROBLEMS = 10


class NotEndpoints(ValueError):
    """The list cannot be used.  ``problems``: each with its line, and the fix."""

    def __init__(self, problems):
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class Elements(NamedTuple):
    """Elements of each set as nft writes them, sorted, no two of a set overlapping."""

    endpoints4: tuple = ()
    endpoints6: tuple = ()
    ranges4: tuple = ()
    ranges6: tuple = ()


def read(data, where="endpoints.txt"):
    """The :class:`qubes_vpn_net.Destination` list in *data*, the bytes of a file called *where*.

    Lines may end as on Windows, and the last one need not end.
    Raises :class:`NotEndpoints` when anything in it is wrong, also when there is none.
    """
    if len(data) > MOST_BYTES:
        raise NotEndpoints([f"{where}: larger than {MOST_BYTES // 2**20} MiB. {_HOW}"])
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise NotEndpoints([f"{where}:{line}: not plain text. {_HOW}"]) from None
    texts = [line.removesuffix("\r").partition("#")[0].strip(" \t") for line in lines]
    if sum(map(bool, texts)) > MOST_ENDPOINTS:
        raise NotEndpoints([f"{where}: more than {MOST_ENDPOINTS} endpoints. {_HOW}"])
    found, problems = [], []
    for number, text in enumerate(texts, 1):
        if not text:
            continue
        try:
            found.append(qubes_vpn_net.endpoint(text))
        except qubes_vpn_net.NotADestination as error:
            problems.append(f"{where}:{number}: {error}")
            if len(problems) > _MOST_PROBLEMS:
                problems[-1] = f"{where}: more lines like these. {_HOW}"
                break
    if not found and not problems:
        problems.append(f"{where}: no endpoint in it. {_HOW}")
    if problems:
        raise NotEndpoints(problems)
    return found


_HOW = "Write one endpoint a line, as in 185.65.135.68:51820/udp."


def write(destinations):
    """The text of a file with *destinations*."""
    return "".join(f"{found.text}\n" for found in destinations)


def elements(destinations):
    """:class:`Elements` for *destinations*.

    Raises :class:`NotEndpoints` when prefixes and port ranges are too many or too entangled.
    """
    sets = {name: set() for name in Elements._fields}
    ranges = {}
    for found in destinations:
        network = ipaddress.ip_network(found.host)
        ports = range(found.first, found.last + 1)
        if network.num_addresses * len(ports) <= WRITTEN_OUT:
            sets[f"endpoints{found.version}"].update(
                f"{host} . {found.proto} . {port}" for host in network for port in ports
            )
        else:
            ranges.setdefault((found.version, found.proto), set()).add(
                (found.first, found.last, int(network[0]), int(network[-1]))
            )
        if sum(map(len, sets.values())) > MOST_ENDPOINTS:
            raise NotEndpoints([f"more than {MOST_ENDPOINTS} addresses and ports. {_FEWER}"])
    if sum(map(len, ranges.values())) > MOST_RANGES:
        raise NotEndpoints([f"more than {MOST_RANGES} prefixes and port ranges. {_FEWER}"])
    for version, most in MOST_ADDRESSES.items():
        hosts = {area[2:] for key, areas in ranges.items() if key[0] == version for area in areas}
        if sum(high - low + 1 for low, high in _merged(hosts)) > most:
            raise NotEndpoints([f"prefixes that cover too much of IPv{version}. {_FEWER}"])
    for (version, proto), areas in ranges.items():
        sets[f"ranges{version}"].update(_element(version, proto, area) for area in _disjoint(areas))
    return Elements(*(tuple(sorted(sets[name])) for name in Elements._fields))


_FEWER = "Name fewer, or single addresses and ports."


def _element(version, proto, area):
    first, last, low, high = area
    address = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    ports = str(first) if first == last else f"{first}-{last}"
    hosts = str(address(low)) if low == high else f"{address(low)}-{address(high)}"
    return f"{hosts} . {proto} . {ports}"


def _disjoint(areas):
    """*areas* (first and last port, first and last address) without overlaps.

    nft refuses an interval set in which two elements overlap, and users may well name a network and
    an address in it.  Ports are cut wherever an area begins or ends; each strip has merged
    addresses; neighbouring strips with the same addresses become one again.
    """
    cuts = sorted({first for first, *_ in areas} | {last + 1 for _, last, *_ in areas})
    result, strip = [], None
    for first, end in itertools.pairwise(cuts):
        hosts = _merged((low, high) for a, b, low, high in areas if a <= first and end - 1 <= b)
        if strip and strip[1] + 1 == first and strip[2] == hosts:
            strip = (strip[0], end - 1, hosts)
        else:
            result += _areas(strip)
            strip = (first, end - 1, hosts)
        if len(result) > 4 * MOST_RANGES:
            raise NotEndpoints([f"prefixes and port ranges that overlap too much. {_FEWER}"])
    return result + _areas(strip)


def _areas(strip):
    return [(strip[0], strip[1], low, high) for low, high in strip[2]] if strip else []


def _merged(intervals):
    merged = []
    for low, high in sorted(intervals):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged
