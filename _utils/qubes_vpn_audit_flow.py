# SPDX-License-Identifier: GPL-2.0-or-later
"""What of each qube can leave the machine in clear, by any way that dom0 knows of.

Followed are a qube's own packets, hop by hop through its netvms and their firewall lists, its DNS
also where a resolver of ours asks instead, what it opens in a disposable, and what is fetched for
it.  A packet is not in clear when it comes to a VPN qube with its killswitch on, or to Whonix'
gateway.  Such a qube's own packets are its endpoints' or Tor's.
"""

import functools

import qubes_vpn_audit_lists
import qubes_vpn_policy

PACKETS, NAMES, DISPOSABLE, FETCHED = "packets", "names", "disposable", "fetched"
#: Kinds of its own packets.
OWN = (PACKETS, NAMES)


class Flow:
    """Ways out in clear of a :class:`qubes_vpn_audit_view.View`."""

    def __init__(self, view):
        self.view = view
        self._known, self._fetchers = {}, {}

    def own(self, name):
        """``{kind: way}`` of the packets that a qube itself sends; way: names, the last one's out.

        ``names``: what it asks by DNS, also when a resolver on its way asks for it.
        """
        if name not in self._known:
            ways = {kind: self._way(name, kind) for kind in OWN}
            self._known[name] = {kind: way for kind, way in ways.items() if way}
        return self._known[name]

    def all(self, name):
        """``{kind: way}`` of everything of the qube *name*."""
        found = dict(self.own(name))
        base = self.view.disposables_of(name)
        if base and self.view.klass(name) != "TemplateVM" and self.own(base):
            found[DISPOSABLE] = [base, *next(iter(self.own(base).values()))]
        if name != "dom0" and (servers := self.fetchers(name)):
            found[FETCHED] = servers
        return found

    def fetchers(self, name):
        """Names of the qubes in clear whose updates proxy the qube or template *name* may use.

        A call may name nobody, and policy says who answers, or it names a qube.
        """
        named = name if any(rule.source == name for rule in self.view.policy) else ""
        alike = (named, self.view.klass(name), frozenset(self.view.qubes[name]["tags"]))
        if alike not in self._fetchers:
            answers = [qubes_vpn_policy.answer(self.view.policy, *alike).qube]
            answers += [self._called(alike, target) for target in self._callable]
            servers = dict.fromkeys(each.removeprefix("@dispvm:") for each in answers if each)
            self._fetchers[alike] = [
                each for each in servers if each in self.view.qubes and self.own(each)
            ]
        return self._fetchers[alike]

    @functools.cached_property
    def _callable(self):
        """Names of the qubes that some rule may let be called by name, for updates."""
        rules, qubes = self.view.policy, self.view.qubes
        targets = {rule.target for rule in rules if rule.action != "deny"}
        if any(target.startswith(("@", "*")) and target != "@default" for target in targets):
            return sorted(qubes)
        return sorted(targets & qubes.keys())

    def _called(self, caller, target):
        """Who answers when *caller* (name, class, tags) calls the qube *target*."""
        called = (target, self.view.klass(target), self.view.qubes[target]["tags"])
        for rule in self.view.policy:
            if rule.is_for(*caller) and rule._replace(source=rule.target).is_for(*called):
                return None if rule.action == "deny" else rule.redirect or target
        return None

    def _way(self, name, kind):
        if self.view.shelters(name):
            return None
        if self.view.is_end(name):
            return [name]
        return self._through(name, kind == NAMES)

    def _through(self, name, dns):
        lists, way = [], []
        for netvm in self.view.way(name):
            if netvm in way:
                return None
            way.append(netvm)
            here = ([name, *way])[-2]
            if dns and netvm in self.view.resolvers:  # it answers, whatever a list says
                if lists and not _passes(tuple(lists), dns):
                    return None
                asked = self._way(netvm, PACKETS)
                return asked and list(dict.fromkeys([*way, *asked]))
            if self.view.enforces(netvm):
                lists.append(tuple(self.view.rules(here)))
            if self.view.shelters(netvm):
                return None
            if self.view.is_end(netvm):
                return way if _passes(tuple(lists), dns) else None
        return None


@functools.lru_cache(maxsize=4096)
def _passes(lists, dns):
    """Whether a packet gets through; a list that lets all through is not asked."""
    asked = tuple(each for each in lists if each[:1] != ("action=accept",))
    return not asked or qubes_vpn_audit_lists.through(asked, dns) is not None
