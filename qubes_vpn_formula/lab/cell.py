# SPDX-License-Identifier: GPL-2.0-or-later
"""What an attack works with, and how what it did is proven and judged.

The attack starts the lab, does its evil, and returns.  The cell captures from before the boot to
the end, judges all of it, and proves that what it concludes is not made of nothing: every capture
shows its control frames, every sender has sent what it was to send and found a way.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import NoReturn

from qubes_vpn_formula.lab import chains, senders
from qubes_vpn_formula.lab.agent import Agent
from qubes_vpn_formula.lab.attacks import Attack
from qubes_vpn_formula.lab.chains import Chain
from qubes_vpn_formula.lab.closing import Closing
from qubes_vpn_formula.lab.evidence import Exit, Link, Phases, Program, Said, Uplink
from qubes_vpn_formula.lab.killswitches import Killswitch
from qubes_vpn_formula.lab.machine import SERVER, Lab
from qubes_vpn_formula.lab.oracle import Endpoint
from qubes_vpn_formula.lab.qube import CommandFailed, Qube
from qubes_vpn_formula.lab.salvo import attempts, fire, offered, salvo
from qubes_vpn_formula.lab.traffic import Echo, Flood, Flow, Job, Sent, TrafficError
from qubes_vpn_formula.lab.tunnels import Kind, Tunnel

_FLOW_PORT = 7
_PATIENCE = 15  # seconds for a tunnel to come up; it takes less than one
#: Where the killswitch's command may be: in the template, or below /rw.
_COMMANDS = ("/usr/lib/qubes-vpn/killswitch", "/rw/config/vpn/lib/killswitch")
#: Killswitches, and whether a tunnel has ever come up with them in this process: with some none
#: can, and a full wait in each of their cells would be the longest part of a run.
_TUNNELS: dict[str, bool] = {}
_GONE = "n=0; while [ -e /sys/class/net/{} ]; do n=$((n+1)); [ $n -lt 500 ]; sleep 0.01; done"


class NotRun(Exception):
    """The attack cannot be made here, or means nothing here; the text says why."""


class NoService(Exception):
    """The attack cannot go on because something does not work that has to."""


class Cell(Closing):
    """One attack on one killswitch; a context manager.

    killswitch: what is attacked.  agent: does what Qubes does in a qube.  folder: for captures.
    lab: the machine, from :meth:`start` on.  evidence: what is looked at.  failures: what did not
    hold of what was required.  skipped: steps that cannot be made here.  sent: how many packets
    were given to the kernel.
    """

    lab: Lab

    def __init__(self, attack: Attack, killswitch: Killswitch, agent: Agent, folder: Path) -> None:
        self.attack, self.killswitch, self.agent = attack, killswitch, agent
        self.phases = Phases()
        self.evidence: list[Uplink | Link | Exit | Program] = []
        self.failures: list[str] = []
        self.skipped: list[str] = []
        self.sent = 0
        self._folder = folder
        self._uplinks: dict[str, Uplink] = {}
        self._flow: Flow | None = None
        self._stack = ExitStack()

    # The machine

    def start(
        self,
        chain: str | Chain = "simple",
        tunnel: str = "wireguard",
        *,
        boot: bool = True,
        before: Callable[[Lab], None] | None = None,
        between: Callable[[str], None] | None = None,
    ) -> None:
        """Builds the lab with the killswitch installed, and boots it as a real boot would.

        chain: `simple`, `dns`, `parallel`, `multihop`, or one of :mod:`chains` with other options.
        tunnel: `wireguard`, `openvpn-udp`, `openvpn-tcp`; for a chain given by name.
        boot: whether the VPN qubes boot now and their tunnels are waited for; else all others do,
            and the attack calls :meth:`boot`.
        before: called when all is installed, the first VPN qube's netvms run, its uplink is
            captured, and neither it nor any client has booted.
        between: called with each unit's name after it, in the first VPN qube's boot.
        """
        if isinstance(chain, str):
            chain = getattr(chains, chain)(Kind(tunnel))
        self.lab = self._stack.enter_context(Lab(chain, self.killswitch, self.agent))
        for name in self.lab.members:
            if name not in self.lab.tunnels:
                self.lab.boot(name)
                continue
            first = name == self._vpns[0]
            if boot or first:
                self._capture(name)
            if before and first:
                before(self.lab)
            if boot:
                self.boot(name, **({"between": between} if between and first else {}))
        if boot:
            for name in self.lab.tunnels:
                self._ready(name)

    def start_without_tunnel(
        self,
        chain: str | Chain = "simple",
        *,
        before: Callable[[Lab], None] | None = None,
        without: Collection[str] = (),
        between: Callable[[str], None] | None = None,
    ) -> None:
        """As :meth:`start`, but no VPN program ever runs: everything is routed over the uplink.

        Everybody else has booted when the VPN qube does.  without: units that it does not have.
        """
        self.start(chain, boot=False, before=before)
        self.boot(self._vpns[0], without={"NetworkManager.service", *without}, between=between)

    def boot(self, name: str = "sys-vpn", **how: object) -> dict[str, str]:
        """Boots a VPN qube; options and answer are those of :func:`boot.play`."""
        if name not in self._uplinks:
            self._capture(name)
        return self.lab.boot(name, **how)

    @property
    def vpn(self) -> Qube:
        """The VPN qube; of two, the first."""
        return self.lab.qubes[self._vpns[0]]

    @property
    def client(self) -> Qube:
        """A client behind every VPN qube, or the first one's."""
        return self.lab.qubes["client-1"]

    @property
    def tunnel(self) -> Tunnel:
        """The tunnel of :attr:`vpn`."""
        return self.lab.tunnels[self._vpns[0]]

    @property
    def _vpns(self) -> list[str]:
        return list(self.lab.tunnels)

    # What is sent

    def phase(self, name: str) -> bytes:
        """Starts a phase of the attack; the answer is its marker, by which frames are told."""
        return self.phases.begin(name)

    def targets(self, family: int) -> list[str]:
        """Where a salvo goes: a server, the VPN qube's netvm, Qubes' DNS, the endpoint's host."""
        database = self.vpn.qubesdb
        if family == 6:
            gateway = database.get("/qubes-gateway6")
            return [SERVER[6], gateway, f"2001:db8:51::{self.tunnel.number}"]
        resolvers = [database["/qubes-primary-dns"], database["/qubes-secondary-dns"]]
        host = f"198.51.100.{self.tunnel.number}"
        return [SERVER[4], database["/qubes-gateway"], *resolvers, host]

    def salvo(self, who: str, phase: str, *, routed: bool = True) -> bytes:
        """The page's salvo, as a phase of its own; the answer is its marker.

        who: `own` (from the VPN qube), `client`, `all` (both).
        routed: the kernel must have had a way for it, in each family; False for a window in which
        it may not.  Raises :class:`TrafficError`.
        """
        marker = self.phase(phase)
        qubes = {"own": [self.vpn], "client": [self.client], "all": [self.vpn, self.client]}[who]
        self.volley(marker, *qubes, routed=routed)
        return marker

    def volley(self, marker: bytes, *qubes: Qube, routed: bool = True) -> None:
        """A :meth:`salvo` from other qubes, or in a phase that there is already."""
        for qube in qubes:
            for family in (4, 6):
                self.send(qube, *salvo(self.targets(family), marker), routed=routed)

    def send(self, qube: Qube, *jobs: Job, routed: bool = True) -> Sent:
        """Sends jobs made with a :meth:`phase`'s marker, and sees to it that they were sent.

        Raises :class:`TrafficError` when one was not tried, or for none there was a way.
        """
        sent = fire(qube, jobs)
        self.sent += attempts(sent)
        if routed and not offered(sent):
            raise TrafficError(f"{qube.name}: no way for {jobs[0].to}: {sent.errors}")
        return sent

    @contextmanager
    def flood(self, qube: Qube, phase: str, rate: float = 2000, family: int = 4) -> Iterator[bytes]:
        """UDP to a server, at `rate` packets a second, while the context lasts; yields the marker.

        Raises :class:`TrafficError` when nothing was sent.
        """
        marker = self.phase(phase)
        with Flood(qube, senders.udp(SERVER[family], 443, marker, rate=rate)) as flood:
            yield marker
            sent = flood.stop()
        self.sent += attempts(sent)
        if not offered(sent):
            raise TrafficError(f"{qube.name}: the flood found no way: {sent.errors}")

    def standing_flow(self, family: int = 4, rate: float = 100) -> Flow | None:
        """A UDP and a TCP flow of the client with a server, until stopped or the cell's end.

        None, and a finding, where nothing gets through: the attack goes on without it.  An attack
        that counts WORK ends there.
        """
        marker = self.phase("standing flow")
        to = SERVER[family]
        self._stack.enter_context(Echo(self.lab.internet, to, _FLOW_PORT))
        try:
            # It ends with the lab; leaving its context would wait for answers that never come.
            self._flow = Flow(self.client, to, _FLOW_PORT, marker, rate=rate, wait=1)
        except TrafficError:
            self._no_service("nothing gets through the tunnel")
        return self._flow

    def go_on(self, seconds: float = 0.2) -> None:
        """Lets a client's :meth:`standing_flow` go on, and sees to it that its packets come here.

        Raises :class:`TrafficError` when none does.  Nothing to do where there is no flow.
        """
        if not self._flow:
            return
        link = self.lab.vif(self.lab.clients(self._vpns[0])[0])
        counter = f"/sys/class/net/{link}/statistics/rx_packets"
        before = int(self.vpn.read(counter))
        time.sleep(seconds)
        arrived = int(self.vpn.read(counter)) - before
        if not arrived:
            raise TrafficError(f"{self.vpn.name}: nothing more of the standing flow on {link}")
        self.sent += arrived

    # What must not happen

    def listen(self, qube: Qube, address: str, port: int) -> None:
        """A program, over UDP and TCP, that must not be reached (IN)."""
        self.evidence.append(Program(qube, address, port))

    def watch(self, near: Qube, far: Qube, device: str, *markers: bytes) -> None:
        """Captures what `near` sends to `device` of `far`: a marker there is a finding (IN).

        markers: the ones that count; without, all of the attack's.
        """
        file = self._file(f"{far.name}-{device}")
        self.evidence.append(Link(near, far, device, file, markers))

    def watch_tunnel(self, *markers: bytes, vpn: str = "sys-vpn") -> None:
        """Captures at the tunnel's server, while it is up: these markers are a finding (IN)."""
        qube, tunnel = self.lab.qubes[vpn], self.lab.tunnels[vpn]
        file = self._file(f"{vpn}-exit")
        self.evidence.append(Exit(qube, self.lab.internet, tunnel, file, markers))

    def from_now(self, vpn: str = "sys-vpn") -> None:
        """What has left by the uplink so far, did so without a killswitch: it is not judged."""
        self._uplinks[vpn].leave_out(0, time.time())

    @contextmanager
    def unguarded(self, vpn: str = "sys-vpn") -> Iterator[None]:
        """A time in which the attack itself leaves no killswitch: it is not judged."""
        begin = time.time()
        yield
        self._uplinks[vpn].leave_out(begin, time.time())

    def allow(self, *endpoints: Endpoint, vpn: str = "sys-vpn") -> None:
        """From now on these are the endpoints, and nothing else is (STATE)."""
        self._uplinks[vpn].allow(endpoints)

    def require(self, condition: object, text: str) -> None:
        """Notes a finding (STATE, WORK) unless the condition holds."""
        if not condition:
            self.failures.append(text)

    def skip(self, what: str) -> None:
        """Notes a step of the attack that cannot be made here, and why; the rest counts."""
        self.skipped.append(f"not tried: {what}")

    def not_run(self, reason: str) -> NoReturn:
        """Ends the attack: it cannot be made here, or means nothing here."""
        raise NotRun(reason)

    def end(self) -> list[Said]:
        """Ends all captures and listeners; what each says."""
        return [one.say(self.phases) for one in self.evidence]

    # What happens to the VPN qube

    def tunnel_down(self, name: str | None = None) -> None:
        """The interface is set down, and everything is routed over the uplink.

        name: the VPN qube, if not the first.
        """
        name = name or self._vpns[0]
        device = self.lab.tunnels[name].device
        self.lab.qubes[name].run(["ip", "link", "set", device, "down"])
        self.route_to_uplink(name)

    def tunnel_kill(self) -> None:
        """The VPN program gets a SIGKILL; returns when its interface is gone."""
        self.tunnel.kill()
        self.vpn.run(_GONE.format(self.tunnel.device))

    def tunnel_up(self, name: str = "sys-vpn") -> None:
        """The VPN program starts again, whatever is left of it; returns when the server answers."""
        self.lab.tunnels[name].down(self.lab.qubes[name])
        self.lab.connect(name)
        self._ready(name)

    def route_to_uplink(self, name: str | None = None) -> None:
        """Everything is routed over the uplink, whatever the tunnel did."""
        name = name or self._vpns[0]
        self.lab.tunnels[name].to_uplink(self.lab.qubes[name])

    def unplug(self, name: str = "sys-vpn") -> None:
        """The uplink is pulled, on both ends; what had left by it until then is kept."""
        self._uplinks[name].end()
        self.lab.unplug(name)

    def plug(
        self, name: str = "sys-vpn", device: str | None = None, netvm: str | None = None
    ) -> str:
        """A new uplink, still down in the qube, with a capture of its own; returns its name."""
        device = self.lab.plug(name, device, netvm)
        self._capture(name, device, netvm)
        return device

    def load(self) -> CompletedProcess[str]:
        """`killswitch load`, whatever its exit code; see :attr:`command`."""
        return self.vpn.run([self.command, "load"], check=False, timeout=120)

    def repeat(self, command: str, most: int, seconds: int = 15) -> None:
        """Runs shell text in the VPN qube `most` times, or as often as `seconds` allow.

        A command that fails, or is not done five times, is a finding.
        """
        script = (
            f"end=$(($(date +%s) + {seconds})); n=0\n"
            f"while [ $n -lt {most} ] && [ $n -lt 5 -o $(date +%s) -lt $end ]; do\n"
            f"{command} || exit\nn=$((n + 1))\ndone"
        )
        done = self.vpn.run(script, check=False, timeout=100)
        self.require(not done.returncode, f"{command}: {done.stderr[:200]}")

    @property
    def command(self) -> str:
        """The path of our killswitch's command; ends the attack where there is none."""
        for command in _COMMANDS:
            if self.vpn.exists(command):
                return command
        return self.not_run("it has no configuration of its own that could be loaded")

    def _ready(self, name: str) -> None:
        killswitch = self.killswitch.name
        patience = _PATIENCE if _TUNNELS.get(killswitch, True) else 1
        try:
            self.lab.tunnels[name].ready(self.lab.qubes[name], patience)
            _TUNNELS[killswitch] = True
        except CommandFailed:
            _TUNNELS.setdefault(killswitch, False)
            self._no_service("the tunnel does not come up")

    def _no_service(self, text: str) -> None:
        """A finding; the end of an attack that counts WORK."""
        if "WORK" in self.attack.counts:
            raise NoService(text)
        self.failures.append(text)

    def _capture(self, name: str, device: str | None = None, netvm: str | None = None) -> None:
        """Captures an uplink of a VPN qube, which is still down."""
        qube, tunnel = self.lab.qubes[name], self.lab.tunnels[name]
        far, far_device = self.lab.far_side(name)
        if netvm:
            far = self.lab.qubes[netvm]
        file = self._file(f"{name}-{device or 'uplink'}")
        endpoint = Endpoint(tunnel.protocol, tunnel.server, tunnel.port)
        device = device or self.lab.members[name].uplink
        self._uplinks[name] = Uplink(qube, device, far, far_device, file, endpoint)
        self.evidence.append(self._uplinks[name])

    def _file(self, what: str) -> Path:
        number = len(self.evidence) + 1
        return self._folder / f"{self.attack.id}-{self.killswitch.name}-{number}-{what}.pcap"
