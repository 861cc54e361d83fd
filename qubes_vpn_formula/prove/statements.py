# SPDX-License-Identifier: GPL-2.0-or-later
"""nft's statements but for verdicts: what a rule compares, looks up, counts and changes."""

from collections.abc import Set as AbstractSet
from typing import Any

import z3

from qubes_vpn_formula.prove import values
from qubes_vpn_formula.prove.expressions import Loaded, index_of, load, one_of, single, within
from qubes_vpn_formula.prove.notmodelled import NotModelled
from qubes_vpn_formula.prove.packet import Packet
from qubes_vpn_formula.prove.ruleset import Key, Rule, Ruleset, Set
from qubes_vpn_formula.prove.terms import FALSE, both, constant, either, equal, not_

#: Sets that are left open: their elements are any, the same at each look.
Names = AbstractSet[tuple[str, str, str]]


class Statements:
    """Of the rules in *ruleset*, with *open_sets* left open.

    elements: how many were written out, of all sets and maps that were looked into.
    """

    def __init__(self, ruleset: Ruleset, open_sets: Names) -> None:
        self._ruleset = ruleset
        self._open = open_sets
        self.elements = 0

    def match(self, rule: Rule, data: dict[str, Any], packet: Packet) -> z3.BoolRef:
        """Whether *packet* is as this statement wants it."""
        sign, right, where = data["op"], data["right"], str(rule)
        parts = load(rule.family, data["left"], packet, where)
        there = both(*[one.there for one in parts])
        if isinstance(right, str) and right.startswith("@"):
            found = self._is_in(parts, self._named(rule, right))
        elif isinstance(right, dict) and "set" in right:
            self.elements += len(right["set"])
            found = _in_list(parts, right["set"], where)
        elif len(parts) == 1:
            return both(there, _compared(sign, parts[0], right, where))
        else:
            found = _equal(parts, right, where)
        if sign not in ("==", "!=", "in"):
            raise NotModelled(where, f"'{sign}' with a set")
        return both(there, not_(found) if sign == "!=" else found)

    def lookup(
        self, rule: Rule, key: Any, data: Any, packet: Packet
    ) -> list[tuple[z3.BoolRef, Any]]:
        """What a map has for *packet*: ``[(truth, element's value)...]``.

        The truths exclude each other; where none is true the map has nothing.
        """
        where = str(rule)
        parts = load(rule.family, key, packet, where)
        there = both(*[one.there for one in parts])
        kinds = tuple(one.kind for one in parts)
        if isinstance(data, str):
            table = self._named(rule, data)
            if self._is_open(table):
                raise NotModelled(where, f"the map {table.name} with any elements")
            elements = list(table.elements.items())
        else:
            elements = [(values.key(kinds, one, where), value) for one, value in data["set"]]
        self.elements += len(elements)
        found, earlier = [], FALSE
        for element, value in elements:
            hit = within(parts, element)
            found.append((both(there, hit, not_(earlier)), value))
            earlier = either(earlier, hit) if any(low != high for low, high in element) else earlier
        return found

    def value(self, rule: Rule, target: Loaded, data: Any, packet: Packet) -> Loaded:
        """What is written into something of *target*'s kind."""
        if isinstance(data, dict):
            return single(rule.family, data, packet, str(rule))
        number = values.single(target.kind, data, str(rule))
        return target._replace(term=constant(number, target.term.size()))

    def _named(self, rule: Rule, name: str) -> Set:
        try:
            return self._ruleset.set(rule.family, rule.table, name.removeprefix("@"))
        except KeyError:
            raise NotModelled(str(rule), f"{name}, which is not there,") from None

    def _is_open(self, table: Set) -> bool:
        return (table.family, table.table, table.name) in self._open

    def _is_in(self, parts: list[Loaded], table: Set) -> z3.BoolRef:
        if self._is_open(table):
            return membership(table)(*[one.term for one in parts])
        self.elements += len(table.elements)
        return one_of(parts, table.elements)


def membership(table: Set) -> z3.FuncDeclRef:
    """The function that stands for "is in the set" when that is left open."""
    sorts = [z3.BitVecSort(values.WIDTHS[kind]) for kind in table.kinds]
    return z3.Function(f"in {table}", *sorts, z3.BoolSort())


def _in_list(parts: list[Loaded], elements: list[Any], where: str) -> z3.BoolRef:
    kinds = tuple(one.kind for one in parts)
    return one_of(parts, [values.key(kinds, one, where) for one in elements])


def _equal(parts: list[Loaded], right: Any, where: str) -> z3.BoolRef:
    key: Key = values.key(tuple(one.kind for one in parts), right, where)
    return within(parts, key)


_ORDER = {"<": z3.ULT, ">": z3.UGT, "<=": z3.ULE, ">=": z3.UGE}


def _compared(sign: str, left: Loaded, right: Any, where: str) -> z3.BoolRef:
    if left.kind == "iface_index" and isinstance(right, str) and sign in ("==", "!="):
        found = equal(left.term, index_of(right))
        return not_(found) if sign == "!=" else found
    if sign in ("==", "!="):
        found = within([left], (values.interval(left.kind, right, where),))
        return not_(found) if sign == "!=" else found
    number = constant(values.single(left.kind, right, where), left.term.size())
    if sign in ("in", "!"):
        none = equal(left.term & number, 0)
        return none if sign == "!" else not_(none)
    if sign not in _ORDER:
        raise NotModelled(where, f"'{sign}'")
    return _ORDER[sign](left.term, number)
