# SPDX-License-Identifier: GPL-2.0-or-later
"""A pillar's machine in the lab, with all that is real in it (R04-R06, R88).

Tunnels are real, and so are the resolver's dnscrypt-proxy with the formula's rules and
configuration, and Tor.  Whonix' rules are not: :mod:`.torgateway`.
"""

import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import qubes_vpn_dns_own
import qubes_vpn_dnscrypt
import qubes_vpn_model
from qubes_vpn_formula.lab import debian, resolverfiles
from qubes_vpn_formula.lab.boot import hide_rw, parse, play
from qubes_vpn_formula.lab.chains import SYS_NET, Chain, Member
from qubes_vpn_formula.lab.closing import Closing
from qubes_vpn_formula.lab.killswitches import LIBRARY, Killswitch, Ours
from qubes_vpn_formula.lab.machine import Lab
from qubes_vpn_formula.lab.nameservers import Nameservers
from qubes_vpn_formula.lab.qube import SLOWNESS, CommandFailed, Qube
from qubes_vpn_formula.lab.torgateway import RULES, Gateway
from qubes_vpn_formula.lab.tornet import TorNetwork
from qubes_vpn_formula.lab.tunnels import Kind, Tunnel, tunnel
from qubes_vpn_model import Model, Service

#: Three tries of a dnscrypt-proxy that has no server yet, which are about 15 seconds apart.
_PATIENCE = 50.0 * SLOWNESS
#: dnscrypt-proxy's name for the server that it asks.
_SERVER = "lab"
_DNS = f"{LIBRARY}/dns"
_OPEN = (
    "import sys; sys.path.insert(0, '/usr/lib/qubes-vpn'); import qubes_vpn_resolver;"
    "sys.exit(str(qubes_vpn_resolver.open_up().problems or '') or 0)"
)


def pillar(topology: str, *kinds: str) -> dict[str, Any]:
    """A pillar of a named topology, with a client behind each way out that it has.

    kinds: of its tunnels, as :class:`Kind` has them, the one at the uplink first.
    """
    first, second = (*kinds, *_KINDS.get(topology, ()), "wireguard", "wireguard")[:2]
    document: dict[str, Any] = {"topology": topology, "tunnels": {"sys-vpn": _tunnel(first, 1)}}
    if topology == "multihop":
        entry = {**_tunnel(first, 1), "upstream": "sys-net"}
        document["tunnels"] = {"sys-vpn": _tunnel(second, 2), "sys-vpn-entry": entry}
    routes = {"client-1": qubes_vpn_model.build(document).default}
    if topology in ("parallel", "mixed"):
        routes["client-2"] = "sys-firewall-novpn"
        document["outside_vpn"] = ["client-2"]
    if topology == "mixed":
        routes["client-3"] = "sys-whonix"
    return {**document, "routes": {"qubes": routes}}


#: Tor carries TCP only.
_KINDS = {"vpn-over-tor": ("openvpn-tcp",)}


def _tunnel(kind: str, number: int) -> dict[str, Any]:
    """A tunnel of a pillar; number: the lab's."""
    lab = tunnel(Kind(kind), number)
    profile = "a.conf" if kind == "wireguard" else "a.ovpn"
    return {"kind": kind.partition("-")[0], "profile": profile, "endpoints": [lab.endpoint]}


def chain(model: Model) -> Chain:
    """The machine of a model, in the lab's terms."""
    upstreams = {name: service.upstream for name, service in model.services.items()}
    if model.gateway_netvm:
        upstreams[model.whonix_gateway] = model.gateway_netvm
    members = [SYS_NET]
    for name in sorted(upstreams, key=lambda name: len(model.path(name))):
        service = model.services.get(name)
        role = service.role if service else "tor"
        kind = _kind(service) if role == "tunnel" else None
        other = role if role in ("resolver", "tor") else ""
        members.append(Member(name, upstreams[name], tunnel=kind, role=other))
    clients = (Member(name, netvm, provides=False) for name, netvm in model.routes.items())
    return (*members, *clients)


def _kind(service: Service) -> Kind:
    program = service.kind
    if program == "openvpn":
        program += f"-{service.endpoints[0].proto}"
    return Kind(program)


class Topology(Closing):
    """A machine that is up; a context manager.

    document: a pillar, such as :func:`pillar` makes.  folder: for files; a new one.
    network: for machines with Tor.  model: the pillar, read.
    killswitch, rules: of the tunnels and of the gateway, when not the usual ones.
    lab, gateways: the machine and its gateways, by name.  As by the formula, a tunnel's netvm lets
    it reach its endpoint and nothing else, except for sys-net, which has no lists.

    Raises :class:`CommandFailed` and :class:`debian.NotReachable`.
    """

    def __init__(
        self,
        document: dict[str, Any],
        folder: Path,
        network: TorNetwork | None = None,
        killswitch: Killswitch | None = None,
        rules: str = RULES,
    ) -> None:
        self.network, self._folder, self._rules = network, folder, rules
        self._document, self.model = document, qubes_vpn_model.build(document)
        self.gateways: dict[str, Gateway] = {}
        with ExitStack() as stack:
            self.lab = stack.enter_context(Lab(chain(self.model), killswitch or Ours()))
            self._nameservers = Nameservers(folder, self.lab.internet)
            for name in ("dnscrypt", "doh", "plain"):
                self._nameservers.serve(name)
            if network:
                network.plug(self.lab.internet)
            for name, member in self.lab.members.items():
                self._boot(name, member)
            self._stack = stack.pop_all()

    def upstream(self, resolver: str) -> str:
        """Which of :data:`nameservers.ADDRESSES` a resolver asks.

        Tor carries TCP only, and dnsdist 1.9.16 answers a question for its DNSCrypt certificate
        over TCP with a message of no length.
        """
        return "doh" if self.model.through_tor(resolver) else "dnscrypt"

    def tunnel_down(self, name: str) -> None:
        """A tunnel's program is killed, and everything is routed over the uplink."""
        self.lab.tunnels[name].kill()
        self.lab.tunnels[name].to_uplink(self.lab.qubes[name])

    def replug(self, name: str, netvm: str) -> None:
        """A qube gets another netvm, as a user would give it one."""
        self.lab.unplug(name)
        device = self.lab.plug(name, netvm=netvm)
        self.lab.device_event(name, "add", device)
        self.lab.agent.uplink(self.lab.qubes[name], device)

    def _boot(self, name: str, member: Member) -> None:
        qube = self.lab.qubes[name]
        if name in self.lab.tunnels and member.netvm != "sys-net":
            self.lab.allow(name, [_rule(self.lab.tunnels[name])])
        if member.role == "resolver":
            self._boot_resolver(name, qube)
        elif member.role == "tor":
            gateway = self.gateways[name] = Gateway(qube, self.network)
            gateway.close_up(self._rules)
            self.lab.boot(name)
            gateway.up()
            gateway.ready()
        else:
            self.lab.boot(name)
        if name in self.lab.tunnels:
            self._follow(name, qube)

    def _follow(self, name: str, qube: Qube) -> None:
        """Clients' DNS goes where the tunnel says, once it answers: the program of the formula."""
        one = self.lab.tunnels[name]
        one.ready(qube, _PATIENCE)
        qube.write("/etc/resolv.conf", f"nameserver {one.inner[0]}\n")
        if not qube.exists(_DNS):
            return  # another killswitch than ours
        qube.popen([_DNS, "follow"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._until(
            lambda: '"state": "open"' in qube.run([_DNS, "status", "--json"], check=False).stdout,
            lambda: f"{name}: clients' DNS does not follow the tunnel",
        )

    def _boot_resolver(self, name: str, qube: Qube) -> None:
        """The template's files and the qube's configuration, the boot, the proxy, the watch."""
        qube.unpack(resolverfiles.files())
        qube.qubesdb[resolverfiles.FLAG] = "1"
        unit = parse("qubes-vpn-dns-closed.service", qube.read(resolverfiles.UNIT))
        hide_rw(qube)
        play(qube, [*self.lab.units(name), unit])
        qube.write("/etc/resolv.conf", qubes_vpn_dns_own.NAMESERVERS)
        folder = qubes_vpn_dnscrypt.FOLDER
        for file, text in self._settings(name).items():
            qube.write(f"{folder}/{file}", text)
        tree = debian.tree("trixie", "dnscrypt", ("dnscrypt-proxy",))
        program = debian.command(tree, "usr/sbin/dnscrypt-proxy")
        words = ["env", f"SSL_CERT_FILE={self._nameservers.ca}", *program]
        words += ["-config", f"{folder}/{qubes_vpn_dnscrypt.CONFIG}"]
        log = self._folder / f"{name}.log"
        with log.open("w") as output:
            qube.popen(words, stdout=output, stderr=subprocess.STDOUT)
        # Not "is ready", which it says after its first try alone (proxy.go, StartProxy).
        said = f"[{_SERVER}] OK ("
        self._until(
            lambda: said in log.read_text(),
            lambda: f"{name}: dnscrypt-proxy has no server: {log.read_text()[-1000:]}",
        )
        qube.run(["/usr/bin/python3", "-IBc", _OPEN])

    def _settings(self, name: str) -> dict[str, str]:
        """What the formula writes of the pillar, with a server of the lab's."""
        dnscrypt = {"servers": {_SERVER: self._nameservers.stamps[self.upstream(name)]}}
        document = {**self._document, "resolvers": {name: {"dnscrypt": dnscrypt}}}
        return qubes_vpn_dnscrypt.files(qubes_vpn_model.build(document).services[name].dnscrypt)

    @staticmethod
    def _until(done: Callable[[], bool], otherwise: Callable[[], str]) -> None:
        end = time.monotonic() + _PATIENCE
        while not done():
            if time.monotonic() > end:
                raise CommandFailed(otherwise())
            time.sleep(0.1)


def _rule(one: Tunnel) -> str:
    where = f"proto={one.protocol} dst{one.kind.family}={one.server}"
    length = 32 if one.kind.family == 4 else 128
    return f"action=accept {where}/{length} dstports={one.port}-{one.port}"
