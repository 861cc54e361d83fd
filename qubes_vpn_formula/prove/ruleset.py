# SPDX-License-Identifier: GPL-2.0-or-later
"""A rule set as data: tables, chains, rules and sets, as `nft -j list ruleset` has them.

:func:`qubes_vpn_formula.prove.nftjson.read` makes one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

#: Lowest and highest value; one value has both the same.
Interval = tuple[int, int]
#: One interval for each part of a (concatenated) key.
Key = tuple[Interval, ...]


@dataclass(frozen=True)
class Rule:
    """index: its place in the chain, from 0.  statements: nft's JSON, in order.  text: as nft lists
    it, when that is known.
    """

    family: str
    table: str
    chain: str
    index: int
    handle: int
    statements: tuple[dict[str, Any], ...]
    text: str = ""

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.chain}, rule {self.index + 1}"


@dataclass(frozen=True)
class Base:
    """Where a base chain is hooked in.

    kind: filter, nat or route.  priority: the smaller, the earlier.  policy: accept or drop.
    devices: of netdev and ingress hooks.
    """

    kind: str
    hook: str
    priority: int
    policy: str
    devices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chain:
    """base: None for one that is only jumped to."""

    family: str
    table: str
    name: str
    rules: tuple[Rule, ...]
    base: Base | None = None

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


@dataclass(frozen=True)
class Set:
    """A named set, or map.

    elements: key -> value; the value is None in a set, a key in a map, nft's JSON of a verdict in a
    verdict map.  kinds: nft's type of each part of the key; data: of the values.
    """

    family: str
    table: str
    name: str
    kinds: tuple[str, ...]
    elements: dict[Key, Any]
    data: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


@dataclass(frozen=True)
class Table:
    """handle: the order in which tables were made."""

    family: str
    name: str
    handle: int = 0
    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, Set] = field(default_factory=dict)
    flowtables: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Ruleset:
    """Everything that is loaded in one network namespace."""

    tables: dict[tuple[str, str], Table] = field(default_factory=dict)

    def chain(self, family: str, table: str, name: str) -> Chain:
        """Raises KeyError."""
        return self.tables[family, table].chains[name]

    def set(self, family: str, table: str, name: str) -> Set:
        """Raises KeyError."""
        return self.tables[family, table].sets[name]

    def chains(self) -> Iterator[Chain]:
        for table in self.tables.values():
            yield from table.chains.values()

    def rules(self) -> Iterator[Rule]:
        for chain in self.chains():
            yield from chain.rules
