# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads `nft -j list ruleset`."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from qubes_vpn_formula.prove import values
from qubes_vpn_formula.prove.notmodelled import NotModelled
from qubes_vpn_formula.prove.ruleset import Base, Chain, Key, Rule, Ruleset, Set, Table

_FAMILIES = ("ip", "ip6", "inet", "netdev")
_IGNORED = ("metainfo", "counter", "quota", "limit")
_HOOKS = {
    "filter": ("prerouting", "input", "forward", "output", "postrouting", "ingress", "egress"),
    "nat": ("prerouting", "input", "output", "postrouting"),
    "route": ("output",),
}
#: What a set may be, beside having elements.  With others its elements come and go.
_FLAGS = {"constant", "interval"}


def read(document: dict[str, Any]) -> Ruleset:
    """The rule set in *document*.  Raises NotModelled for anything that is not modelled.

    Beside what nft says a chain of a netdev hook may have "dev", a rule may have "text", and must
    have "complete": :func:`qubes_vpn_formula.prove.collect.complete` writes them.  No nft's JSON
    alone says all that a rule compares.
    """
    reading = _Reading()
    for entry in document["nftables"]:
        for kind, data in entry.items():
            if kind not in _IGNORED:
                reading.take(kind, data)
    return reading.ruleset()


class _Reading:
    def __init__(self) -> None:
        self._tables: dict[tuple[str, str], dict[str, Any]] = {}
        self._chains: dict[tuple[str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
        self._rules: dict[tuple[str, str, str], list[Rule]] = defaultdict(list)
        self._sets: dict[tuple[str, str], dict[str, Set]] = defaultdict(dict)
        self._flowtables: dict[tuple[str, str], dict[str, tuple[str, ...]]] = defaultdict(dict)

    def take(self, kind: str, data: dict[str, Any]) -> None:
        known: dict[str, Callable[[dict[str, Any]], None]] = {
            "table": self._table,
            "chain": self._chain,
            "rule": self._rule,
            "set": self._set,
            "map": self._set,
            "flowtable": self._flowtable,
        }
        if kind not in known:
            raise NotModelled(f"{data.get('family')} {data.get('table')}", f"'{kind}'")
        known[kind](data)

    def ruleset(self) -> Ruleset:
        for place in (*self._chains, *self._sets, *self._flowtables):
            if place not in self._tables:
                raise NotModelled(" ".join(place), "what is in a table that is not there")
        for *place, chain in self._rules:
            if chain not in self._chains[tuple(place)]:
                raise NotModelled(" ".join((*place, chain)), "a rule of a chain that is not there")
        return Ruleset(
            {
                place: Table(
                    *place,
                    data.get("handle", 0),
                    {name: self._made(chain) for name, chain in self._chains[place].items()},
                    self._sets[place],
                    self._flowtables[place],
                )
                for place, data in self._tables.items()
            }
        )

    def _table(self, data: dict[str, Any]) -> None:
        where = f"{data['family']} {data['name']}"
        if data["family"] not in _FAMILIES:
            raise NotModelled(where, "a table of this family")
        # What nft 1.0.6 writes there is no flag's name, but it writes something.
        if "flags" in data:
            raise NotModelled(where, f"a table with flags ({data['flags']})")
        self._tables[data["family"], data["name"]] = data

    def _chain(self, data: dict[str, Any]) -> None:
        self._chains[data["family"], data["table"]][data["name"]] = data

    def _rule(self, data: dict[str, Any]) -> None:
        rules = self._rules[data["family"], data["table"], data["chain"]]
        if not data.get("complete"):
            where = f"{data['family']} {data['table']} {data['chain']}, rule {len(rules) + 1}"
            raise NotModelled(where, "a rule without what nft --debug=netlink says of it")
        rules.append(
            Rule(
                data["family"],
                data["table"],
                data["chain"],
                len(rules),
                data.get("handle", 0),
                tuple(data["expr"]),
                data.get("text", ""),
            )
        )

    def _flowtable(self, data: dict[str, Any]) -> None:
        devices = _devices(data, f"{data['family']} {data['table']} {data['name']}")
        self._flowtables[data["family"], data["table"]][data["name"]] = devices

    def _set(self, data: dict[str, Any]) -> None:
        where = f"{data['family']} {data['table']} {data['name']}"
        if odd := {*_listed(data.get("flags", []))} - _FLAGS:
            raise NotModelled(where, f"a set with {', '.join(sorted(odd))}")
        if "timeout" in data or data.get("auto-merge"):
            raise NotModelled(where, "a set whose elements change by themselves")
        if "stmt" in data:
            raise NotModelled(where, "a set whose elements have statements")
        kinds, kept = _kinds(data["type"], where), _kinds(data.get("map", []), where, "verdict")
        elements = {}
        for element in data.get("elem", []):
            key, value = element if kept else (element, None)
            found = values.key(kinds, _bare(key, where), where)
            elements[found] = _data(kept, value, where)
        place = data["family"], data["table"]
        self._sets[place][data["name"]] = Set(*place, data["name"], kinds, elements, kept)

    def _made(self, data: dict[str, Any]) -> Chain:
        place = data["family"], data["table"], data["name"]
        rules = tuple(self._rules[place])
        if "hook" not in data:
            return Chain(*place, rules)
        where = " ".join(place)
        kind, hook, devices = data["type"], data["hook"], _devices(data, where)
        if hook not in _HOOKS.get(kind, ()):
            raise NotModelled(where, f"a chain of type {kind} at {hook}")
        if hook in ("ingress", "egress") and not devices:
            raise NotModelled(where, "a chain whose devices are not said")
        if data["policy"] not in ("accept", "drop"):
            raise NotModelled(where, f"the policy {data['policy']!r}")
        return Chain(*place, rules, Base(kind, hook, data["prio"], data["policy"], devices))


def _listed(plain: str | list[str]) -> tuple[str, ...]:
    return (plain,) if isinstance(plain, str) else tuple(plain)


def _devices(data: dict[str, Any], where: str) -> tuple[str, ...]:
    """Names of devices; a newer kernel's patterns of them are not modelled."""
    names = _listed(data.get("dev", []))
    if any(name.endswith("*") for name in names):
        raise NotModelled(where, f"a pattern of devices ({', '.join(names)})")
    return names


def _kinds(plain: str | list[str], where: str, *others: str) -> tuple[str, ...]:
    kinds = _listed(plain)
    for kind in kinds:
        if kind not in values.WIDTHS and kind not in others:
            raise NotModelled(where, f"the type {kind}")
    return kinds


def _bare(element: Any, where: str) -> Any:
    """An element without its counter and comment."""
    if not (isinstance(element, dict) and "elem" in element):
        return element
    if odd := element["elem"].keys() - {"val", "counter", "comment"}:
        raise NotModelled(where, f"an element with {', '.join(sorted(odd))}")
    return element["elem"]["val"]


def _data(kinds: tuple[str, ...], value: Any, where: str) -> Key | dict[str, Any] | None:
    if kinds == ("verdict",):
        return value
    return values.key(kinds, value, where) if kinds else None
