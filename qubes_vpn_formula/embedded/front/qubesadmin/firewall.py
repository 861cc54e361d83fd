# SPDX-License-Identifier: GPL-2.0-or-later
"""A qube's firewall list. The list is read and written whole, one call each.

A rule's parts are read-only here: make a new rule instead of editing one.
"""

import contextlib
import datetime
import re
import socket
from typing import Any


class Part:
    """One part of a rule, `key=value`. It equals its value's text."""

    def __init__(self, key: str, text: str, sent: str | None = None) -> None:
        self._text = text
        self.rule = f"{key}={sent or text}"

    def __str__(self) -> str:
        return self._text

    def __eq__(self, other: object) -> bool:
        return self._text == other

    __hash__ = None


def _choice(key: str, value: str, *allowed: str) -> Part:
    if value not in allowed:
        raise ValueError(value)
    return Part(key, value)


def _host(value: str) -> Part:
    """A destination.

    An address or prefix of either family, whatever key it came under, or a host name.
    """
    address, slash, prefix = value.partition("/")
    for key, family, bits in (("dst6", socket.AF_INET6, 128), ("dst4", socket.AF_INET, 32)):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, address)
            length = int(prefix) if slash else bits
            if not 0 <= length <= bits:
                raise ValueError(f"no such prefix length: {value}")
            part = Part(key, value if slash else f"{value}/{bits}")
            if length == 0:
                part.rule = None  # limits nothing, so it is not sent
            return part
    if slash or not re.fullmatch(r"[a-z0-9._-]*", value):
        raise ValueError(f"neither an address nor a host name: {value}")
    return Part("dsthost", value)


def _ports(value: str | int) -> Part:
    bounds = [int(bound) for bound in str(value).split("-")]
    if len(bounds) > 2 or min(bounds) < 0 or max(bounds) > 65536 or bounds[0] > bounds[-1]:
        raise ValueError(f"no such ports: {value}")
    low, high = bounds[0], bounds[-1]
    return Part("dstports", f"{low}" if low == high else f"{low}-{high}", f"{low}-{high}")


def _icmptype(value: str | int) -> Part:
    if not 0 <= int(value) <= 255:
        raise ValueError(f"no such ICMP type: {value}")
    return Part("icmptype", str(value))


class Expire(Part):
    """When a rule ends, in seconds since 1970."""

    def __init__(self, value: str | int) -> None:
        super().__init__("expire", str(value))
        self.datetime = datetime.datetime.fromtimestamp(int(value), datetime.UTC)

    @property
    def expired(self) -> bool:
        """Whether that time has passed."""
        return self.datetime < datetime.datetime.now(datetime.UTC)


_MAKE = {
    "action": lambda value: _choice("action", value, "accept", "drop"),
    "proto": lambda value: _choice("proto", value, "tcp", "udp", "icmp"),
    "dsthost": _host,
    "dst4": _host,
    "dst6": _host,
    "specialtarget": lambda value: _choice("specialtarget", value, "dns"),
    "dstports": _ports,
    "icmptype": _icmptype,
    "expire": Expire,
    "comment": lambda value: Part("comment", str(value)),
}
_SENT = ("action", "proto", "dsthost", "dstports", "icmptype", "specialtarget", "expire", "comment")


class Rule:
    """A firewall rule, from its text (`action=accept dst4=...`) or from parts by keyword.

    ValueError when it is none. Two rules are equal when their `rule` texts are. A rule never equals
    a string, not even its own text: the real one compares with the type `str` there.
    """

    action = property(lambda self: self._parts.get("action"))
    proto = property(lambda self: self._parts.get("proto"))
    dsthost = property(lambda self: self._parts.get("dsthost"))
    dstports = property(lambda self: self._parts.get("dstports"))
    icmptype = property(lambda self: self._parts.get("icmptype"))
    specialtarget = property(lambda self: self._parts.get("specialtarget"))
    expire = property(lambda self: self._parts.get("expire"))
    comment = property(lambda self: self._parts.get("comment"))

    def __init__(self, rule: str | None, **parts: Any) -> None:
        words, _, comment = (rule or "").partition("comment=")
        given = dict(word.split("=", 1) for word in words.split(" ") if word)
        if comment:
            given["comment"] = comment
        given.update(parts)
        self._parts: dict[str, Part] = {}
        for key, make in _MAKE.items():
            value = given.pop(key, None)
            if value is not None:
                self._parts["dsthost" if key in ("dst4", "dst6") else key] = make(value)
        if given:
            raise ValueError(f"unknown parts of a rule: {sorted(given)}")
        if self.action is None:
            raise ValueError("a rule needs action=")
        if self.dstports is not None and self.proto not in ("tcp", "udp"):
            raise ValueError("dstports= needs proto=tcp or proto=udp")
        if self.icmptype is not None and self.proto != "icmp":
            raise ValueError("icmptype= needs proto=icmp")

    @property
    def rule(self) -> str:
        """The rule as it is sent to qubesd."""
        texts = (self._parts[key].rule for key in _SENT if key in self._parts)
        return " ".join(text for text in texts if text)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Rule):
            return self.rule == other.rule
        return False if isinstance(other, str) else NotImplemented

    __hash__ = None

    def __repr__(self) -> str:
        return f"Rule({self.rule!r})"


class Firewall:
    """A qube's list of rules, read at the first use and then kept; `load_rules` reads it again."""

    def __init__(self, vm: Any) -> None:
        self.vm = vm
        self._rules: list[Rule] = []
        self._loaded = False

    @property
    def rules(self) -> list[Rule]:
        """The rules. Assigning a list saves it; editing in place needs `save_rules`."""
        if not self._loaded:
            self.load_rules()
        return self._rules

    @rules.setter
    def rules(self, rules: list[Rule]) -> None:
        self.save_rules(rules)
        self._rules = rules

    def load_rules(self) -> None:
        """Reads the list from qubesd."""
        text = self.vm.qubesd_call(None, "admin.vm.firewall.Get").decode()
        self._rules = [Rule(line) for line in text.splitlines()]
        self._loaded = True

    def save_rules(self, rules: list[Rule] | None = None) -> None:
        """Writes the list, by default the one that was read.

        Writing does not make it the one that was read.
        """
        lines = [f"{rule.rule}\n" for rule in (self._rules if rules is None else rules)]
        self.vm.qubesd_call(None, "admin.vm.firewall.Set", payload="".join(lines).encode("ascii"))

    def reload(self) -> None:
        """Has the same rules loaded again, which resolves host names anew."""
        self.vm.qubesd_call(None, "admin.vm.firewall.Reload")
