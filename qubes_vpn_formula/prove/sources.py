# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a rule was written: from nft's text to the file and line of each rule of each chain.

nft's JSON has no lines.  The text is followed as nft follows it, as far as needed to know which
lines stand in which chain at its end: blocks, `add rule`, `insert rule`, `flush`, `delete`.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

_TABLE = re.compile(r"(?:add )?table (?:(ip|ip6|inet|netdev|arp|bridge) )?(\S+) \{$")
_CHAIN = re.compile(r"(?:add )?chain (\S+) \{(.*)")
_RULE = re.compile(
    r"(?:nft )?(add|insert) rule (?:(ip|ip6|inet|netdev|arp|bridge) )?(\S+) (\S+) (.+)"
)
_GONE = re.compile(
    r"(?:flush|delete) (table|chain) (?:(ip|ip6|inet|netdev|arp|bridge) )?(\S+)(?: (\S+))?$"
)
#: What stands in a chain's block and is no rule.
_HEAD = ("type ", "policy ", "comment ", "#")


class Part(NamedTuple):
    """A piece of what nft is given.  name: the file it is in, as it is told to people."""

    name: str
    text: str


class Line(NamedTuple):
    """Where a rule stands.  number: from 1."""

    file: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


#: (family, table, chain) -> the lines of its rules, in order.
Lines = dict[tuple[str, str, str], list[Line]]


def lines(parts: Iterable[Part]) -> Lines:
    """The line of each rule that is there when nft has been given all parts in turn."""
    found: Lines = {}
    for part in parts:
        follower = _Follower(part.name, found)
        for number, text in enumerate(part.text.splitlines(), 1):
            follower.line(number, text.strip())
    return found


class _Follower:
    """Reads one file, line by line."""

    def __init__(self, file: str, found: Lines) -> None:
        self._file, self._found = file, found
        #: the blocks that are open: ("table", family, name), ("chain", name), ("other",)
        self._inside: list[tuple[str, ...]] = []

    def line(self, number: int, text: str) -> None:
        if not text or text.startswith("#"):
            return
        if not self._inside:
            self._command(number, text)
        elif text == "}":
            self._inside.pop()
        elif self._inside[-1][0] == "chain":
            if not text.startswith(_HEAD):
                key = (*self._inside[-2][1:], self._inside[-1][1])
                self._found.setdefault(key, []).append(Line(self._file, number, text))
        else:
            self._block(text)

    def _block(self, text: str) -> None:
        """A line in a table, or in a set or something else that is no chain."""
        if self._inside[-1][0] == "table" and (chain := _CHAIN.match(text)):
            self._found.setdefault((*self._inside[-1][1:], chain[1]), [])
            if not chain[2].strip().endswith("}"):
                self._inside.append(("chain", chain[1]))
        elif text.count("{") > text.count("}"):
            self._inside.append(("other",))
        elif text.count("}") > text.count("{"):
            self._inside.pop()

    def _command(self, number: int, text: str) -> None:
        """A line outside of any block."""
        if table := _TABLE.match(text):
            self._inside.append(("table", table[1] or "ip", table[2]))
        elif rule := _RULE.match(text):
            verb, family, table_name, chain, words = rule.groups()
            place = self._found.setdefault((family or "ip", table_name, chain), [])
            line = Line(self._file, number, words)
            place.insert(0 if verb == "insert" else len(place), line)
        elif gone := _GONE.match(text):
            kind, family, table_name, chain = gone.groups()
            for key in [key for key in self._found if key[:2] == (family or "ip", table_name)]:
                if kind == "table" or key[2] == chain:
                    del self._found[key]
        elif text == "flush ruleset":
            self._found.clear()
