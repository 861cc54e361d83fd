# SPDX-License-Identifier: GPL-2.0-or-later
"""One run of the tests that a user runs: the machine, who is asked, and what is known already."""

import ipaddress
import secrets
import urllib.parse
from typing import NamedTuple

import qubes_vpn_guard
import qubes_vpn_plan
import qubes_vpn_tests_pillar
from qubes_vpn_probing import WORDS, Probing
from qubes_vpn_qubesd import in_words

PASSED, FAILED, NOT_RUN, NOT_ASKED = "passed", "failed", "not run", "not asked for"
NO_WAY, NO_SERVER, NO_ANSWER = WORDS["route"], WORDS["none"], WORDS["silence"]
#: Of packets that are told.
_FEW = 4
_CLASSES = ("AppVM", "StandaloneVM", "DispVM")


class NotRun(Exception):
    """A test cannot be run: the text is a sentence that says why."""


class NotAsked(NotRun):
    """It was not asked for: the text says how to."""


class Said(NamedTuple):
    """One thing that a test has seen.  verdict: ``PASSED``, ``FAILED`` or ``NOT_RUN``."""

    verdict: str
    text: str


def passed(text):
    """What is as it should be."""
    return Said(PASSED, text)


def failed(text):
    """What is not."""
    return Said(FAILED, text)


def not_run(text):
    """What could not be looked at."""
    return Said(NOT_RUN, text)


def in_short(heard):
    """Texts for packets that somebody has heard: questions before answers, a few of many."""
    known = sorted({(one.port not in (53, 853), one.text()) for one in heard})
    texts = [text for _, text in known]
    more = [f"and {len(texts) - _FEW} more"] if len(texts) > _FEW else []
    return ", ".join(texts[:_FEW] + more)


class Trial:
    """Of *model*, on the machine; nothing of dom0's is changed.

    fresh: a function that gives a ``qubes_vpn_machine.Machine`` that is dry.
    destructive: whether a tunnel may be taken down for a while.
    """

    def __init__(self, model, fresh, destructive=False):
        self.model, self.fresh, self.destructive = model, fresh, destructive
        self.machine = fresh()
        self.probing = Probing(self.machine.app)
        self.settings = model.tests
        self.guard = qubes_vpn_guard.guard_of(qubes_vpn_plan.guard(model))
        self.domain = model.tests["domain"]
        self._exits, self.asked = {}, {}

    def runs(self, name):
        """Whether a qube is on."""
        return name in self.machine.names() and self.machine.running(name)

    def clients(self, tunnel):
        """Names of the running qubes that are to reach the world by that tunnel.

        By what the pillar says of them: one that has been put elsewhere is asked as well.
        Without ``tests.clients`` those are left out that an allowlist keeps from what is asked.
        """
        asked = self.settings["clients"]
        if asked is None:
            asked = [
                name
                for name in self.machine.names()
                if self.is_client(name) and name not in self.model.allowlists
            ]
        found = [name for name in asked if self.shelter(name) == tunnel]
        if not found:
            raise NotRun(f"No qube that runs is to be behind {tunnel}: start a client of it.")
        if missing := [name for name in found if not self.runs(name)]:
            raise NotRun(f"{', '.join(missing)} of the pillar's tests.clients is off: start it.")
        return found

    def is_client(self, name):
        """Whether a qube runs, and sends what is its own."""
        mine = {*self.model.services, self.model.uplink, self.model.whonix_gateway}
        return (
            name not in mine
            and name not in self.model.vaults
            and self.machine.klass(name) in _CLASSES
            and self.machine.running(name)
            and (self.machine.value(name, "netvm") is not None or self.meant(name) is not None)
        )

    def meant(self, name):
        """The netvm that a qube should have."""
        if name in self.model.routes:
            netvm = self.model.client_routes(self.machine.names())[name]
        elif self.machine.inherits(name, "netvm") and self.model.default != "keep":
            netvm = self.model.default
        else:
            netvm = self.machine.value(name, "netvm")
        return None if netvm == "none" else netvm

    def shelter(self, name):
        """The tunnel, or Whonix' gateway, that a qube should reach first; None without one."""
        shelters = (*self.model.tunnels(), self.model.whonix_gateway)
        return next((netvm for netvm in self.way(name) if netvm in shelters), None)

    def way(self, name):
        """The netvms that a qube should have on its way, its own first."""
        found, netvm = [], self.meant(name)
        while netvm is not None and netvm not in found:
            found.append(netvm)
            service = self.model.services.get(netvm)
            netvm = service.upstream if service else self._netvm(netvm)
        return found

    def _netvm(self, name):
        return self.machine.value(name, "netvm") if name in self.machine.names() else None

    def upstream(self, tunnel):
        """The qube that sees what leaves a tunnel's qube; :class:`NotRun` when it is off."""
        netvm = self._netvm(tunnel)
        if netvm is None or not self.runs(netvm):
            raise NotRun(f"{tunnel} has no netvm that runs, so nobody can see what leaves it.")
        return netvm

    def exits(self, name, shelter):
        """How the world sees a qube, by the check of *shelter*; asked once."""
        check = qubes_vpn_tests_pillar.check(self.model, shelter)
        key = name, check["url"]
        if key not in self._exits:
            order = {word: check[word] for word in ("url", "address", "provider")}
            self._exits[key] = self.probing.exits(name, order)
        return self._exits[key]

    def host(self, shelter):
        """Who is asked by the check of *shelter*."""
        return self._url(shelter).hostname

    def port(self, shelter):
        """On which port."""
        url = self._url(shelter)
        return url.port or {"http": 80, "https": 443}[url.scheme]

    def _url(self, shelter):
        return urllib.parse.urlsplit(qubes_vpn_tests_pillar.check(self.model, shelter)["url"])

    def is_exit(self, address, tunnel):
        """Whether the pillar names an address among a tunnel's ``exits``; None without any."""
        exits = qubes_vpn_tests_pillar.check(self.model, tunnel)["exits"]
        if not exits:
            return None
        return any(address in ipaddress.ip_network(each) for each in exits)

    def marker(self):
        """A word that nobody has said before; it can stand in a name."""
        return f"qubes-vpn-{secrets.token_hex(8)}"

    def address(self, name, family):
        """A qube's own address, or None."""
        with in_words(f"{name}: its address could not be read"):
            value = self.machine.value(name, "ip" if family == 4 else "ip6")
        return str(value) if value else None
