# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine as an audit looks at it: an inventory, and the pillar where there is one.

Who shelters others is what the machine says, not what a pillar promises: a VPN qube without the
service that closes it is none.
"""

import contextlib
import functools

import qubes_vpn_callers
import qubes_vpn_inventory
import qubes_vpn_plan
import qubes_vpn_policy
from qubes_vpn_finding import NotKnown

VPN, RESOLVER = f"service.{qubes_vpn_plan.FLAG}", f"service.{qubes_vpn_plan.RESOLVER_FLAG}"
#: The tags of Whonix' gateway, and of the qubes that are to go through it.
GATEWAY, WORKSTATION = "anon-gateway", "anon-vm"
_TAKE = "Take it again with this version of the formula"


class View:
    """Questions about *inventory* (:mod:`qubes_vpn_inventory`).

    model: the pillar's :class:`qubes_vpn_model.Model`, or None: then the machine's own marks say
    what is a tunnel.
    """

    def __init__(self, inventory, model=None):
        self.inventory, self.model = inventory, model
        self.qubes = inventory["qubes"]
        self.named = inventory["globals"]
        self.wiring = {name: self.value(name, "netvm") for name in self.qubes}
        self.tunnels = {name for name in self.qubes if self.feature(name, VPN) == "1"}
        self.resolvers = {name for name in self.qubes if self.feature(name, RESOLVER) == "1"}
        self.gateways = {name for name in self.qubes if GATEWAY in self.qubes[name]["tags"]}
        self._services = self.tunnels | self.resolvers
        self._uplink = None
        if model:
            self.gateways |= {model.whonix_gateway} & self.qubes.keys()
            self._services = self._services | model.services.keys()
            self._uplink = model.uplink

    def left_over(self):
        """VPN and resolver qubes that the pillar does not name and that carry nobody, sorted."""
        if not self.model:
            return []
        known = {*self.model.services, *self.model.homes(), *self.wiring.values()}
        return sorted((self.tunnels | self.resolvers) - known)

    # --- one qube

    def klass(self, name):
        return self.qubes[name]["class"]

    def value(self, name, key):
        """A property's value; None where the qube has no such property."""
        return qubes_vpn_inventory.value(self.qubes[name], key)

    def inherits(self, name, key):
        found = self.qubes[name]["properties"].get(key)
        return bool(found and found["inherited"])

    def feature(self, name, key):
        return self.qubes[name]["features"].get(key)

    def rules(self, name):
        """The firewall list, a text for each rule; of what has none, an empty one."""
        return self.qubes[name].get("firewall", [])

    def announces(self, name, key):
        """A feature by which a template tells of itself, of the qube or what it is made from."""
        while name:
            if (found := self.feature(name, key)) is not None:
                return bool(found)
            name = self.value(name, "template")
        return False

    def enforces(self, name):
        """Whether a netvm holds its clients to their lists (qubes_vpn_machine.Machine.enforces)."""
        off = self.feature(name, "service.qubes-firewall") == ""
        return not off and self.announces(name, "qubes-firewall")

    def runs(self, name):
        return qubes_vpn_inventory.runs(self.qubes[name])

    # --- who is what

    def of_class(self, *classes):
        """Names of the qubes of these classes, sorted."""
        return sorted(name for name in self.qubes if self.klass(name) in classes)

    def bases(self):
        """Names of what disposables are made from."""
        return sorted(name for name in self.qubes if self.value(name, "template_for_dispvms"))

    def is_end(self, name):
        """Whether packets that have come to *name* may leave the machine there.

        A provider without a netvm may have network hardware, unless the pillar or a mark of ours
        says that it is a service qube: then it is not wired yet.
        """
        if self.wiring[name] is not None:
            return False
        if name == self._uplink:
            return True
        provides = self.value(name, "provides_network") is True
        return name not in self._services and (provides or name in self._served)

    def shelters(self, name):
        """Whether what comes to *name* from others goes into a tunnel, or to Tor, or nowhere."""
        return name in self.tunnels or name in self.gateways

    def way(self, name):
        """Names of the netvms of *name*, from the next one to the last."""
        names = []
        while (name := self.wiring.get(name)) is not None and name not in names:
            names.append(name)
        return names

    def behind(self, name):
        """Names of who gets out by *name*, sorted."""
        return sorted(each for each in self.qubes if name in self.way(each))

    def in_front(self):
        """Names of who carries a tunnel's packets, ends excepted."""
        return {each for name in self.tunnels for each in self.way(name) if not self.is_end(each)}

    def services(self):
        """The pillar's service qubes, as :class:`qubes_vpn_model.Service`."""
        return [*self.model.services.values()] if self.model else []

    def services_in_clear(self):
        """Names of the service qubes that the pillar puts past every tunnel."""
        names = [each.name for each in self.services() if each.role != "tunnel"]
        return [name for name in names if name in self.qubes and self.model.in_clear(name)]

    def all_tunnels(self):
        """Names of VPN qubes, closed or not, sorted."""
        named = {each.name for each in self.services() if each.role == "tunnel"}
        return sorted(self.tunnels | (named & self.qubes.keys()))

    def endpoints(self, name):
        """The pillar's endpoints of a VPN qube as words of rules, which have no order; or None."""
        service = self.model and self.model.services.get(name)
        return {frozenset(each.rule.split()) for each in service.endpoints} if service else None

    def chosen(self):
        """Names of the qubes that the pillar wants in clear."""
        if not self.model:
            return set()
        direct = {self.model.whonix_gateway} if self.model.whonix == "direct" else set()
        return {*self.model.outside_vpn} | direct

    def vaults(self):
        """Names of the qubes that are never to have a network: by the pillar, or by their name."""
        if self.model:
            return sorted({*self.model.vaults} & self.qubes.keys())
        return sorted(name for name in self.of_class("AppVM") if name.startswith("vault"))

    def disposables_of(self, name):
        """What the qube *name* opens things in, or None."""
        return self.value(name, "default_dispvm")

    # --- dom0

    @functools.cached_property
    def policy(self):
        """The rules for templates' updates; NotKnown where it is not clear whom they are for."""
        with self._policy_understood() as lines:
            return qubes_vpn_policy.of_lines(lines)

    def let_in(self, name):
        """The rules that let others than dom0 call our services in *name*; NotKnown as above."""
        with self._policy_understood() as lines:
            return qubes_vpn_callers.let_in(lines, name, self.klass(name), self.qubes[name]["tags"])

    @contextlib.contextmanager
    def _policy_understood(self):
        for lines in self.inventory["policy"].values():
            if qubes_vpn_inventory.named_tags(lines):
                self.need("tags of policy")
        try:
            yield self.inventory["policy"]
        except qubes_vpn_policy.NotPolicy as error:
            raise NotKnown(f"dom0's qrexec policy is not understood ({error})") from None

    def need(self, fact):
        """NotKnown where this inventory is older than the *fact* that a rule needs."""
        if fact not in self.inventory.get("more", ()):
            raise NotKnown(f"'{fact}' is not in this inventory. {_TAKE}")

    @functools.cached_property
    def _served(self):
        """Names of who is somebody's netvm."""
        return {*self.wiring.values()}
