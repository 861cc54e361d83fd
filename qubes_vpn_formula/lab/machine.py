# SPDX-License-Identifier: GPL-2.0-or-later
"""A Qubes machine with an internet: qubes, links between them, boots, devices that come and go.

Links are named, grouped and addressed as Qubes does (facts 6): in the client `eth0`, in the netvm
`vifN.0` with N the client's number; 10.137.0.N and fd09:24ef:4179::a89:N.
"""

from collections.abc import Collection
from contextlib import ExitStack
from typing import Any

from qubes_vpn_formula.lab import udev
from qubes_vpn_formula.lab.agent import CLIENT_MAC, NETVM_MAC, Agent
from qubes_vpn_formula.lab.agent.restated import Restated
from qubes_vpn_formula.lab.boot import Hardware, Unit, hide_rw, parse, play, qubes_units
from qubes_vpn_formula.lab.chains import CARD, Chain
from qubes_vpn_formula.lab.closing import Closing
from qubes_vpn_formula.lab.killswitches import Absent, Killswitch
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.tunnels import Tunnel, tunnel

#: A server in the internet, which is the machine's name for everything beyond sys-net.  Every other
#: public address is there as well.
SERVER = {4: "203.0.113.80", 6: "2001:db8:80::80"}
#: The provider's name server, which sys-net uses.
RESOLVER = "203.0.113.53"
#: What the internet sees of clients that do not go through a tunnel.
PUBLIC = {4: "192.0.2.2", 6: "2001:db8:2::2"}
_DNS = ("10.139.1.1", "10.139.1.2")
_ROUTER = {4: "192.0.2.1", 6: "2001:db8:2::1"}


class Lab(Closing):
    """A machine; a context manager.  Nothing has booted yet when it is there: see :meth:`start`.

    qubes: by name.  internet: everything beyond sys-net.  tunnels: by the name of their qube.
    agent: what Qubes does in each qube.  members: the chain, by name.

    Raises :class:`qubes_vpn_formula.lab.qube.CommandFailed`.
    """

    def __init__(
        self, chain: Chain, killswitch: Killswitch | None = None, agent: Agent | None = None
    ) -> None:
        self.members = {member.name: member for member in chain}
        self.agent = agent or Restated()
        self.killswitch = killswitch or Absent()
        self.tunnels: dict[str, Tunnel] = {}
        self._number = {member.name: place for place, member in enumerate(chain, 1)}
        #: names of qubes that are plugged into their netvm
        self._plugged = {member.name for member in chain if member.netvm}
        with ExitStack() as stack:
            self.internet = stack.enter_context(Qube("internet"))
            self.qubes = {name: stack.enter_context(Qube(name)) for name in self.members}
            for name, member in self.members.items():
                if member.tunnel:
                    depth = sum(1 for above in self._above(name) if self.members[above].tunnel)
                    number = len(self.tunnels) + 1
                    self.tunnels[name] = tunnel(member.tunnel, number, depth)
            self._tell()
            self._wire()
            for name, one in self.tunnels.items():
                one.serve(self.internet)
                self.killswitch.install(self.qubes[name], one)
            self._stack = stack.pop_all()

    # What is where

    def address(self, name: str, family: int = 4) -> str:
        """A qube's own address, as its netvm sees it."""
        number = self._number[name]
        return f"10.137.0.{number}" if family == 4 else f"fd09:24ef:4179::a89:{number:x}"

    def addresses(self, name: str) -> list[str]:
        """Both, IPv4 first."""
        return [self.address(name, 4), self.address(name, 6)]

    def vif(self, name: str) -> str:
        """What a qube's link is called in its netvm."""
        return f"vif{self._number[name]}.0"

    def far_side(self, name: str) -> tuple[Qube, str]:
        """The netvm and the device there that see all that leaves a qube's uplink."""
        netvm = self.members[name].netvm
        if netvm is None:
            return self.internet, "isp"
        return self.qubes[netvm], self.vif(name)

    def clients(self, name: str) -> list[str]:
        """Names of the qubes that have it as netvm and are plugged in."""
        return [
            other
            for other in self.members
            if self.members[other].netvm == name and other in self._plugged
        ]

    def _above(self, name: str) -> list[str]:
        """The netvm, its netvm, and so on."""
        found = []
        while (netvm := self.members[name].netvm) is not None:
            found.append(netvm)
            name = netvm
        return found

    # Boot

    def start(self, without: Collection[str] = ()) -> None:
        """Boot every qube, netvms first, and wait for the tunnels.

        without: qubes that stay as they are, for the caller to boot.
        """
        for name in self.members:
            if name not in without:
                self.boot(name)
        for name, one in self.tunnels.items():
            if not {name, *self._above(name)} & set(without):
                one.ready(self.qubes[name])

    def boot(self, name: str, **options: Any) -> dict[str, str]:
        """Boot one qube; options and answer are those of :func:`play`."""
        qube = self.qubes[name]
        hide_rw(qube)
        return play(qube, self.units(name), **options)

    def units(self, name: str) -> list[Unit]:
        """The units that are enabled in a qube: Qubes' and, in a VPN qube, the killswitch's."""
        qube, member = self.qubes[name], self.members[name]
        hardware = Hardware(
            member.uplink if member.netvm else None,  # a network card is NetworkManager's
            coldplug=lambda: self.device_event(name, "add", member.uplink),
            attach=lambda: self._attach(name),
            tunnel=lambda: self.connect(name),
        )
        units = self.agent.arrange(qubes_units(self.agent, qube, hardware))
        if name in self.tunnels:
            units += [
                parse(path.rpartition("/")[2], qube.read(path)) for path in self.killswitch.units
            ]
        return units

    def _attach(self, name: str) -> None:
        for client in self.clients(name):
            self._online(client)

    def connect(self, name: str) -> None:
        """What NetworkManager does: start the qube's tunnel, or sys-net's network card."""
        if one := self.tunnels.get(name):
            one.up(self.qubes[name])
            self.device_event(name, "add", one.device)
        elif self.members[name].netvm is None:
            _configure_card(self.qubes[name])
            self.agent.dnat(self.qubes[name])  # Qubes' dispatcher script, as the resolver is known

    # Devices

    def device_event(self, name: str, action: str, device: str) -> None:
        """udev in a qube has seen a device: `add`, or `move` for a new name."""
        if name in self.tunnels:
            udev.event(self.qubes[name], self.killswitch.udev_rules, action, device)

    def rename(self, name: str, device: str, new: str) -> None:
        """Give a device of a qube another name; udev sees it afterwards."""
        lines = [f"link set {device} down", f"link set {device} name {new}", f"link set {new} up"]
        _ip(self.qubes[name], lines)
        self.device_event(name, "move", new)

    def unplug(self, name: str) -> None:
        """Take a qube's uplink away, on both ends."""
        netvm = self.members[name].netvm
        self.agent.vif(self.qubes[netvm], self.vif(name), self.addresses(name), "offline")
        _ip(self.qubes[netvm], [f"link del {self.vif(name)}"])
        self._plugged.discard(name)

    def plug(self, name: str, device: str | None = None, netvm: str | None = None) -> str:
        """Give a qube a new uplink, up in its netvm; the answer is the device's name.

        In the qube it only is there: :meth:`device_event` and `agent.uplink` come next.
        """
        member = self.members[name]
        device, netvm = device or member.uplink, netvm or member.netvm
        self.qubes[netvm].links(self._cable(name, device))
        self._online(name, netvm)
        if netvm == member.netvm:
            self._plugged.add(name)
        return device

    def _online(self, name: str, netvm: str | None = None) -> None:
        upstream = self.qubes[netvm or self.members[name].netvm]
        self.agent.vif(upstream, self.vif(name), self.addresses(name), "online")

    def _cable(self, name: str, device: str) -> str:
        """A line for `ip` in the netvm: both ends, still down."""
        return (
            f"link add {self.vif(name)} address {NETVM_MAC} type veth"
            f" peer name {device} address {CLIENT_MAC} netns {self.qubes[name].pid}"
        )

    def _wire(self) -> None:
        """All links, and the internet."""
        for name, qube in self.qubes.items():
            if self.members[name].netvm is None:
                card = self.members[name].uplink
                cable = f"link add isp type veth peer name {card} netns {qube.pid}"
                self.internet.links(cable, *_INTERNET)
            if clients := self.clients(name):
                qube.links(*[self._cable(one, self.members[one].uplink) for one in clients])

    # What dom0 says

    def allow(self, name: str, rules: list[str], policy: str = "drop") -> None:
        """A qube's firewall rules in its netvm, for both families; the list replaces the old one.

        rules: in qvm-firewall's canonical words, such as `action=accept proto=udp dst4=9.9.9.9/32`;
        a rule with dst4 or dst6 goes to that family alone.
        """
        netvm = self.qubes[self.members[name].netvm]
        self._allow(netvm, name, rules, policy)
        self.agent.firewall_changed(netvm)

    def _allow(self, netvm: Qube, name: str, rules: list[str], policy: str) -> None:
        for family in (4, 6):
            prefix = f"/qubes-firewall/{self.address(name, family)}/"
            for key in [key for key in netvm.qubesdb if key.startswith(prefix)]:
                del netvm.qubesdb[key]
            other = "dst6=" if family == 4 else "dst4="
            own = [rule for rule in rules if other not in rule]
            for number, rule in enumerate(own):
                netvm.qubesdb[f"{prefix}{number:04}"] = rule
            netvm.qubesdb[f"{prefix}policy"] = policy

    def _tell(self) -> None:
        """QubesDB of every qube as dom0 writes it at the start."""
        for name, qube in self.qubes.items():
            member, database = self.members[name], qube.qubesdb
            if member.netvm:
                database["/qubes-mac"] = CLIENT_MAC
                for key, family in (("", 4), ("6", 6)):
                    database[f"/qubes-ip{key}"] = self.address(name, family)
                    database[f"/qubes-gateway{key}"] = self.address(member.netvm, family)
                database["/qubes-netmask"] = "255.255.255.255"
                database["/qubes-primary-dns"], database["/qubes-secondary-dns"] = _DNS
            if member.provides:
                database["/qubes-netvm-network"] = self.address(name)
                database["/qubes-netvm-gateway"] = self.address(name)
                database["/qubes-netvm-gateway6"] = self.address(name, 6)
                database["/qubes-netvm-netmask"] = "255.255.255.255"
                database["/qubes-netvm-primary-dns"] = _DNS[0]
                database["/qubes-netvm-secondary-dns"] = _DNS[1]
                database["/qubes-service/qubes-network"] = "1"
                database["/qubes-service/qubes-firewall"] = "1"
                for key, family in (("", 4), ("6", 6)):
                    connected = [self.address(one, family) for one in self.clients(name)]
                    database[f"/connected-ips{key}"] = " ".join(connected)
                for client in self.clients(name):
                    self._allow(qube, client, ["action=accept"], "drop")


_INTERNET = [
    f"address add {_ROUTER[4]}/24 dev isp",
    f"address add {_ROUTER[6]}/64 dev isp",
    *(f"address add {address} dev lo" for address in (*SERVER.values(), RESOLVER)),
    *(f"address add 198.51.100.{number} dev lo" for number in range(1, 10)),
    *(f"address add 2001:db8:51::{number} dev lo" for number in range(1, 10)),
    "link set isp up",
    # Every other address is here too, so that whatever gets out also arrives.
    "route add local 0.0.0.0/0 dev lo table main",
    "route add local ::/0 dev lo table main",
]


def _configure_card(sys_net: Qube) -> None:
    lines = [f"link set {CARD} up"]
    for family, length in ((4, 24), (6, 64)):
        lines += [
            f"address add {PUBLIC[family]}/{length} dev {CARD}",
            f"route add default via {_ROUTER[family]} dev {CARD}",
        ]
    _ip(sys_net, lines)
    sys_net.write("/etc/resolv.conf", f"nameserver {RESOLVER}\n")


def _ip(qube: Qube, lines: list[str]) -> None:
    qube.run(["ip", "-batch", "-"], input="\n".join(lines))
