# SPDX-License-Identifier: GPL-2.0-or-later
"""What leaves a machine in clear, by sending every packet of a small world: one after the other.

Shares no code with the formula.  It knows inventories, and Qubes: a netvm that runs qubes-firewall
asks its client's list, first match first, then sends the packet on as its own.
"""

import functools
import ipaddress
import itertools

FLAG, DNS_FLAG = "service.qubes-vpn", "service.qubes-vpn-dns"
#: What a rule says of these is the netvm's to know: both are tried.
UNSURE = ("dsthost=", "expire=", "specialtarget=")


class World:
    """The machine of the inventory *data*; addresses and ports: all that there is to send to."""

    def __init__(self, data, addresses, ports):
        self.qubes, self.policy = data["qubes"], data["policy"]
        self.packets = [
            (ipaddress.ip_address(address), protocol, port)
            for address in addresses
            for protocol in ("tcp", "udp", "icmp", "gre")
            for port in ports
        ]

    def leaves(self, name):
        """``{kind}`` of what of the qube *name* gets out in clear."""
        found = self.sent(name)
        base = self.get(name, "default_dispvm")
        if base and self.qubes[name]["class"] != "TemplateVM" and self.sent(base):
            found = found | {"disposable"}
        if any(self.sent(each) for each in self.updated_by(name)):
            found = found | {"fetched"}
        return found

    @functools.cache  # noqa: B019 - a world is small and short
    def sent(self, name):
        """``{kind}`` of what it sends itself."""
        if self.hides(name):
            return set()
        return {
            kind
            for kind, dns in (("packets", False), ("names", True))
            if any(self.gets_out(name, packet) for packet in self.packets if is_dns(packet) == dns)
        }

    def get(self, name, key):
        return self.qubes[name]["properties"].get(key, {}).get("value")

    def has(self, name, feature):
        return self.qubes[name]["features"].get(feature)

    def hides(self, name):
        return self.has(name, FLAG) == "1" or "anon-gateway" in self.qubes[name]["tags"]

    def is_uplink(self, name):
        if self.get(name, "netvm") or {self.has(name, FLAG), self.has(name, DNS_FLAG)} & {"1"}:
            return False
        used = any(self.get(each, "netvm") == name for each in self.qubes)
        return bool(self.get(name, "provides_network")) or used

    @functools.cache  # noqa: B019
    def gets_out(self, name, packet):
        """Follows one packet that *name* sends."""
        if self.is_uplink(name):
            return True
        netvm = self.get(name, "netvm")
        if not netvm:
            return False
        if is_dns(packet) and self.has(netvm, DNS_FLAG) == "1":
            asked = [each for each in self.packets if not is_dns(each)]
            return not self.hides(netvm) and any(self.gets_out(netvm, each) for each in asked)
        if self.asks_lists(netvm) and not may_pass(tuple(self.qubes[name]["firewall"]), packet):
            return False
        return not self.hides(netvm) and self.gets_out(netvm, packet)

    @functools.cache  # noqa: B019
    def asks_lists(self, name):
        if self.has(name, "service.qubes-firewall") == "":
            return False
        while name:
            if self.has(name, "qubes-firewall") is not None:
                return self.has(name, "qubes-firewall") != ""
            name = self.get(name, "template")
        return False

    def updated_by(self, name):
        """Whoever may answer when it asks for an updates proxy, of nobody or of anybody."""
        lines = [line.split() for file in sorted(self.policy) for line in self.policy[file]]
        for target in ["@default", *self.qubes]:
            for _, _, source, to, action, *options in lines:
                if not self.means(source, name) or not self.means(to, target):
                    continue
                if action != "deny":
                    redirect = [each.split("=")[1] for each in options if "target=" in each]
                    server = (redirect or [target])[0].replace("@dispvm:", "")
                    if server in self.qubes:
                        yield server
                break

    def means(self, word, name):
        """Whether a word of policy is for the qube *name* (``@default``: for nobody named)."""
        if word in ("*", "@anyvm", name):
            return name != "dom0" or word == "*"
        if name == "@default":
            return False
        qube = self.qubes[name]
        return word in [f"@type:{qube['class']}", *(f"@tag:{tag}" for tag in qube["tags"])]


def is_dns(packet):
    return packet[2] == 53 and packet[1] in ("tcp", "udp")


@functools.cache
def may_pass(rules, packet):
    """Whether the packet passes the list, whatever its unsure rules turn out to mean."""
    unsure = [number for number, rule in enumerate(rules) if any(word in rule for word in UNSURE)]
    return any(
        passes([rule for number, rule in enumerate(rules) if number not in absent], packet)
        for count in range(len(unsure) + 1)
        for absent in itertools.combinations(unsure, count)
    )


def passes(rules, packet):
    for rule in rules:
        if applies(rule, packet):
            return "accept" in rule.split()[0]
    return False


@functools.cache
def applies(rule, packet):
    return all(_fits(*word.split("="), *packet) for word in rule.split()[1:])


def _fits(key, value, address, protocol, port):
    """Whether one condition of a rule is true of a packet."""
    if key in ("dst4", "dst6"):
        return address in ipaddress.ip_network(value)
    if key == "proto":
        return protocol == value
    if key == "dstports":
        first, last = map(int, value.split("-"))
        return protocol in ("tcp", "udp") and first <= port <= last
    if key == "icmptype":
        return protocol == "icmp" and port == int(value)
    return key != "specialtarget" or is_dns((address, protocol, port))
