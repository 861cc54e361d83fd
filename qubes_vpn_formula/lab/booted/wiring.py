# SPDX-License-Identifier: GPL-2.0-or-later
"""Booted qubes that follow dom0: made, started, ended and plugged as the embedded Qubes is told."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from qubes_vpn_formula.embedded.qubesd import firewall_grammar
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted, Template
from qubes_vpn_formula.lab.qube import Qube

#: The qube with the network card: its uplink is the lab's internet.
CARD = "sys-net"
_SERVICE, _FLAGS = "service.", "/qubes-service/"


class Move(NamedTuple):
    """A qube got another netvm, or none.  begun, ended: seconds since 1970."""

    begun: float
    ended: float
    qube: str
    netvm: str | None


class Wiring:
    """For :class:`qubes_vpn_formula.embedded.followers.Follower`.

    templates: by the names that dom0 has for them; a qube that provides network, of another
    template, is left out.  clients: names of those that do not boot.
    qubes: those that boot.  clients: by name, once they had a netvm.  moves: the oldest first.
    """

    def __init__(
        self, lab: Booted, templates: Mapping[str, Template], clients: tuple[str, ...]
    ) -> None:
        self._lab, self._templates, self._names = lab, templates, clients
        self.qubes: dict[str, AppVM] = {}
        self.clients: dict[str, Qube] = {}
        self.moves: list[Move] = []
        self._netvms: dict[str, str | None] = {}

    def follow(self, state: dict[str, Any]) -> None:
        """The machine becomes as the embedded Qubes is; what is upstream comes up first."""
        known = state["qubes"]
        for name, qube in known.items():
            if name not in self.qubes and self._boots(qube):
                self._make(name, qube)
        order = sorted(self.qubes, key=lambda name: _depth(known, name))
        for name in reversed(order):
            if self.qubes[name].running and not _on(known[name]):
                self.qubes[name].kill()
        for name in order:
            if _on(known[name]):
                self._booted(name, known[name])
        for name in self._names:
            self._client(name, known[name])

    def _boots(self, qube: dict[str, Any]) -> bool:
        properties = qube["properties"]
        provides = properties.get("provides_network", False)
        return provides and properties.get("template") in self._templates

    def _make(self, name: str, qube: dict[str, Any]) -> None:
        template = self._templates[qube["properties"]["template"]]
        self.qubes[name] = self._lab.appvm(name, template, online=name == CARD)

    def _booted(self, name: str, qube: dict[str, Any]) -> None:
        """One that is on, or is to be."""
        one = self.qubes[name]
        if name != CARD:
            netvm = self.qubes.get(qube["link"])
            if netvm:
                _allow(netvm, one, qube)
            if self._netvms.get(name) != qube["link"]:
                begun = time.time()
                one.replug(netvm)
                self._moved(begun, name, qube["link"])
        if not one.running:
            for key in [key for key in one.qubesdb if key.startswith(_FLAGS)]:
                del one.qubesdb[key]
            one.qubesdb |= dict.fromkeys(_flags(qube["features"]), "1")
            one.start()

    def _client(self, name: str, qube: dict[str, Any]) -> None:
        link = qube["link"] if _on(qube) else None
        netvm = self.qubes.get(link)
        before = self.qubes.get(self._netvms.get(name))
        if netvm and name in self.clients:
            _allow(netvm, self.clients[name], qube)
        if self._netvms.get(name) == link:
            return
        begun = time.time()
        if before:
            before.remove(self.clients[name])
        if netvm and name in self.clients:
            netvm.add(self.clients[name])
        elif netvm:
            self.clients[name] = self._lab.client(name, netvm)
            _allow(netvm, self.clients[name], qube)
        self._moved(begun, name, link)

    def _moved(self, begun: float, name: str, netvm: str | None) -> None:
        self._netvms[name] = netvm
        self.moves.append(Move(begun, time.time(), name, netvm))


def _on(qube: dict[str, Any]) -> bool:
    return qube["power"] != "Halted"


def _depth(known: dict[str, Any], name: str) -> int:
    """How many qubes are between it and the card."""
    depth, link = 0, known[name]["link"]
    while link:
        depth, link = depth + 1, known[link]["link"]
    return depth


def _flags(features: dict[str, str]) -> set[str]:
    """QubesDB's keys of a qube's services; every netvm has two."""
    services = (key for key, value in features.items() if value and key.startswith(_SERVICE))
    on = {key.removeprefix(_SERVICE) for key in services}
    return {f"{_FLAGS}{key}" for key in on | {"qubes-network", "qubes-firewall"}}


def _allow(netvm: AppVM, qube: Qube | AppVM, known: dict[str, Any]) -> None:
    """Its list, as the embedded Qubes has it; without one everything is allowed, as in Qubes."""
    rules = ["action=accept"] if known["rules"] is None else known["rules"]
    now = time.time()
    kept = [rule for rule in rules if not firewall_grammar.expired(rule, now)]
    netvm.allow(qube, [firewall_grammar.without_notes(rule) for rule in kept])
