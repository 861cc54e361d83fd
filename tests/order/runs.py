# SPDX-License-Identifier: GPL-2.0-or-later
"""The formula's own steps on a world, watched after every write."""

import contextlib
import re
from typing import NamedTuple

import pytest
import qubesadmin.app
from core.machines import CHAINS, GATEWAY, way, where_tor_is

import qubes_vpn_dom0
import qubes_vpn_model
import qubes_vpn_plan
from qubes_vpn_machine import Machine
from qubes_vpn_qubesd import Refused, connect

from . import oracle
from .written import design, meaning

#: entries of pillars, and the rules that let them through
ENDPOINTS = {
    "203.0.113.7:51820/udp": "action=accept dst4=203.0.113.7/32 proto=udp dstports=51820-51820",
    "198.51.100.0/24:443-500/udp": "action=accept dst4=198.51.100.0/24 proto=udp dstports=443-500",
    "[2001:db8::7]:51820/udp": "action=accept dst6=2001:db8::7/128 proto=udp dstports=51820-51820",
    "203.0.113.7:443/tcp": "action=accept dst4=203.0.113.7/32 proto=tcp dstports=443-443",
    "[2001:db8::7]:443/tcp": "action=accept dst6=2001:db8::7/128 proto=tcp dstports=443-443",
}
ALLOWED = {
    "dns": "action=accept specialtarget=dns",
    "icmp": "action=accept proto=icmp",
    "203.0.113.9:443/tcp": "action=accept dst4=203.0.113.9/32 proto=tcp dstports=443-443",
    "[2001:db8::/48]:443/tcp": "action=accept dst6=2001:db8::/48 proto=tcp dstports=443-443",
}


class Done(NamedTuple):
    """One step: what it said, and why it was refused (None: it was not)."""

    id: str
    changes: dict
    remarks: list
    refused: str | None


class Part(NamedTuple):
    """A pillar, and the plan of it that is run: `plan` or `layout` of qubes_vpn_plan."""

    document: dict
    plan: str


def steps(part):
    """The plan's steps."""
    return getattr(qubes_vpn_plan, part.plan)(qubes_vpn_model.build(part.document))


def run(world, steps, dry=False, watch=None, record=None):
    """The steps until one is refused, as one Salt run: a list of :class:`Done`.

    record: a qubes_vpn_record.Record; without one nothing is recorded.
    """
    done = []
    with _front_on(world.qubes):
        machine = Machine(connect(), dry=dry, record=record)
        for step in steps:
            changes, refused = {}, None
            if watch:
                watch.begins(step)
            machine.remarks.clear()
            try:
                qubes_vpn_dom0.run(machine, step.state, step.args, changes)
            except Refused as error:
                refused = str(error)
            done.append(Done(step.id, changes, [*machine.remarks], refused))
            if watch:
                watch.ends(done[-1])
            if refused:
                break
    return done


@contextlib.contextmanager
def _front_on(qubes):
    """qubesadmin talks to this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUBES_VPN_EMBEDDED", "in memory")
        patch.setattr(qubesadmin.app, "EmbeddedQubes", lambda _path: qubes)
        yield


class Watch:
    """Looks at a world after every write while a pillar's steps run.

    `found` is what must not have been, in words.
    """

    def __init__(self, world, document):
        self.found = []
        self._state, self._truth = world.qubes.state, world.truth
        self._document = document = meaning(document, GATEWAY in self._state["qubes"])
        self._before = oracle.netvms(self._state)
        self._rules = {name: [oracle.rules(self._state, name)] for name in self._before}
        self._providers = oracle.providers(self._state)
        self._behind = behind(document)
        self._may = self._in_clear() | outside(document)
        self._offline = oracle.offline_by_choice(self._state) - routed(document)
        self._listed = {name: ENDPOINTS.values() for name in document["tunnels"]}
        homes = {
            f"{name}-dvm" for name, keys in document["tunnels"].items() if "disposable" in keys
        }
        self._listed |= {name: ENDPOINTS.values() for name in homes}
        for name, entries in document["allowlists"].items():
            self._listed[name] = [ALLOWED[entry] for entry in entries]
        self._online = oracle.online(self._state, self._truth)
        self._passed = oracle.passing(self._state, self._truth)
        self._fetchers = self._fetching_in_clear() | chosen(document)
        self._begin, self._step, self._making = None, "", set()

    def begins(self, step):
        """A step begins; what it makes is nobody's yet, until it ends."""
        self._begin = oracle.everything(self._state)
        self._step = step.id
        self._making = {step.args["name"]} - set(oracle.netvms(self._state))

    def ends(self, done):
        """A step has ended."""
        self._making = set()
        self.look("its end")
        if done.refused and not done.changes and self._begin != oracle.everything(self._state):
            self._say("its end", "it was refused, tells of no changes, and has changed something")

    def told(self, done):
        """The run has ended: who is offline by it is named, or a qube on his way there."""
        words = set(re.findall(r"[\w-]+", str(done)))
        lost = self._online - oracle.online(self._state, self._truth)
        for name in sorted(lost):
            if not words & {*way(name, self._before), *way(name, oracle.netvms(self._state))}:
                self._say("the last step", f"{name} is offline, and nothing says so")

    def look(self, call):
        """After a write."""
        wiring = oracle.netvms(self._state)
        for name in sorted(self._in_clear() - self._may - self._making):
            self._say(call, f"in clear: {' -> '.join(way(name, wiring))}")
        for name in sorted(self._offline):
            if wiring.get(name):
                self._say(call, f"{name} was offline by choice, has no route, and got a netvm")
        for key, name in self._fetching_in_clear() - self._fetchers:
            if name not in self._may:  # by the pillar it is past the VPN, and it is told
                self._say(call, f"{key} is {name}, which is in clear")
        for name, passes in oracle.passing(self._state, self._truth).items():
            self._look_at_way(name, passes, wiring, call)
        for name in wiring:
            self._look_at_list(name, call)
        for name in self._listed.keys() & wiring.keys() - self._making:
            self._look_at_limits(name, wiring[name], call)

    def _in_clear(self):
        return oracle.in_clear(self._state, self._truth, self._behind)

    def _look_at_way(self, name, passes, wiring, call):
        """It passes every shelter that it passed before, or every one that it is to pass."""
        passed = self._passed.get(name)
        if passes is None or name in self._making or (passed is not None and passes >= passed):
            return
        if lacks := self._promised(name, wiring) - passes:
            lacks = ", ".join(sorted(lacks))
            self._say(call, f"past {lacks}: {' -> '.join(way(name, wiring))}")

    def _promised(self, name, wiring):
        """The shelters that *name* is to pass by the pillar, or whoever it hangs on."""
        wired, routes = design(self._document), self._document["routes"]
        default = routes.get("default") or CHAINS[self._document["topology"]][1]
        known = next((each for each in way(name, wiring)[1:] if each in wired), None)
        inherits = "netvm" not in self._state["qubes"][name]["properties"]
        to = wired.get(name, routes["qubes"].get(name))
        if to in (None, "none"):
            to = default if inherits and default not in ("none", "keep") else known
        return {*self._document["tunnels"], GATEWAY} & {*way(to, wired)}

    def _fetching_in_clear(self):
        clear = oracle.in_clear(self._state, self._truth) | self._truth.uplinks
        keys = ("updatevm", "clockvm")
        named = {(key, self._state["globals"].get(key)) for key in keys}
        return {(key, name) for key, name in named if name in clear}

    def _look_at_list(self, name, call):
        seen = self._rules.setdefault(name, [["action=accept"]])
        if (lines := oracle.rules(self._state, name)) != seen[-1]:
            seen.append(lines)
            if name not in self._listed:
                self._say(call, f"{name} got a firewall list")
            if len(seen) > 2:
                self._say(call, f"{name} had one list too many: {seen}")

    def _look_at_limits(self, name, netvm, call):
        if oracle.limited_to(oracle.rules(self._state, name), self._listed[name]):
            return
        if netvm not in (None, self._before.get(name)):
            self._say(call, f"{name} hangs on {netvm} without its list")
        tunnel = name in self._document["tunnels"]
        if tunnel and name in oracle.providers(self._state) - self._providers:
            self._say(call, f"{name} provides network without its list")

    def _say(self, call, what):
        self.found.append(f"{self._step}: after {call}: {what}")


def behind(document):
    """Shelters that the pillar puts behind another one: what they send themselves counts too."""
    wiring, shelters = design(document), {GATEWAY, *document["tunnels"]}
    if where_tor_is(document) == "behind_vpn":  # a tunnel's own way may lead through Tor
        default = document["routes"].get("default") or CHAINS[document["topology"]][1]
        wiring.setdefault(GATEWAY, default)
    return {name for name in shelters if shelters & {*way(name, wiring)[1:]}}


def outside(document):
    """Who may be in clear by the pillar; a VPN qube is not in clear as long as it is limited."""
    gateway = {GATEWAY} if where_tor_is(document) == "direct" else set()
    wiring, shelters = design(document), {GATEWAY, *document["tunnels"]}
    services = {*document["resolvers"], *document["firewalls"]}
    in_clear = {name for name in services if not shelters & {*way(name, wiring)}}
    return {*document["outside_vpn"], *in_clear, *gateway}


def routed(document):
    """Whose netvm the pillar gives."""
    gateway = set() if where_tor_is(document) == "unmanaged" else {GATEWAY}
    return {*design(document), *document["routes"]["qubes"], *gateway}


def chosen(document):
    """Who may fetch past every tunnel by the pillar: ``{("updatevm", name)}``."""
    updates = document.get("updates", {})
    return {("updatevm", updates["dom0"])} if updates.get("outside_vpn") else set()
