# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole machine that dom0 makes of a pillar, on qubes that boot (R88).

    internet: OpenVPN servers 1 and 2, DNSCrypt and plain DNS everywhere
      sys-net, and behind it what the pillar says

qubesctl runs as in Qubes; what it makes, starts and moves in the embedded Qubes is made, started
and moved here, before dom0 goes on (:mod:`qubes_vpn_formula.lab.booted.wiring`).  Templates have
what their SLS puts there: test_real_path.py has Salt itself do that.
"""

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import talker
from provider import Provider
from tunnelled import openvpn, put_profiles, up

from qubes_vpn_formula.embedded.followers import Follower
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.lab import salvo
from qubes_vpn_formula.lab.booted import formula
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted, Template
from qubes_vpn_formula.lab.booted.salt import SLS, Salt
from qubes_vpn_formula.lab.booted.wiring import Wiring
from qubes_vpn_formula.lab.capture import Capture, Captured
from qubes_vpn_formula.lab.nameservers import ANSWERS, Nameservers
from qubes_vpn_formula.lab.oracle import Endpoint, Oracle
from qubes_vpn_formula.lab.packets import decode
from qubes_vpn_formula.lab.qube import SLOWNESS, Qube
from qubes_vpn_formula.lab.questions import Asking, Question
from qubes_vpn_formula.masterless import Applied

MARKER, ELSEWHERE = b"leak-of-the-whole-machine", "203.0.113.77"
#: By its number: where a server is, and its tunnel's own end there.
ENDPOINTS = {number: Endpoint("udp", f"198.51.100.{number}", 1194) for number in (1, 2)}
PROFILES = {1: "one.ovpn", 2: "two.ovpn"}
CLIENTS = ("work", "personal", "untrusted")
#: Of a salvo: nobody's server, and both of the tunnels'.
_TARGETS = [ELSEWHERE, *(endpoint.addresses for endpoint in ENDPOINTS.values())]
#: The template of what Qubes itself has made.
_PLAIN = "fedora-42-xfce"
#: The end of an address' own name.
_REVERSE = b"\4arpa\0"
#: ICMPv6 that a kernel sends by itself.
_CHATTER = (131, 132, 133, 143)


def tunnel(number: int, **more: Any) -> dict[str, Any]:
    """A tunnel of a pillar, to that server."""
    server = f"198.51.100.{number}:1194/udp"
    made = {"kind": "openvpn", "template": "t-vpn", "profile": PROFILES[number]}
    return {**made, "endpoints": [server], **more}


class Whole:
    """See the module; nothing is made yet.  A context manager is `stack`, which it lives in.

    templates: more than the formula's, by names that Qubes installs.
    """

    def __init__(
        self,
        lab: Booted,
        stack: ExitStack,
        folder: Path,
        document: dict[str, Any],
        templates: Mapping[str, Template] | None = None,
    ) -> None:
        self.lab, self._folder, self._stack = lab, folder, stack
        for name in ("vpn", "names", "t-vpn", "t-dns"):
            (folder / name).mkdir()
        (protocol,) = {one["endpoints"][0][-3:] for one in document["tunnels"].values()}
        self.provider = Provider(folder / "vpn", lab.internet, protocol)
        for number in ENDPOINTS:
            self.provider.serve(number)
        self.names = Nameservers(folder / "names", lab.internet)
        for name in ("dnscrypt", "plain"):
            self.names.serve(name)
        self.qubesd = EmbeddedQubes(folder / "qubes.json", "4.3")
        self.salt = Salt(folder / "qubesctl", qubes=self.qubesd)
        self._tunnels: dict[str, int] = {}
        self._past: tuple[str, ...] = ()
        self._count = 0
        document = self.complete(document)
        plain = lab.template("t-plain")
        plain.start()
        plain.stop()
        ours = {"t-vpn", *(one["template"] for one in document["resolvers"].values())}
        made = {name: self._template(name, document) for name in sorted(ours)}
        made |= {_PLAIN: plain, **(templates or {})}
        self._wiring = Wiring(lab, made, CLIENTS)
        self._follower = stack.enter_context(Follower(self.qubesd.path, self._wiring.follow))
        synced = self.salt.dom0.qubesctl("saltutil.sync_all", "--out=json")
        assert synced.returncode == 0, synced.stdout + synced.stderr

    @property
    def qubes(self) -> dict[str, AppVM]:
        """Those that boot, by name."""
        return self._wiring.qubes

    @property
    def clients(self) -> dict[str, Qube]:
        """The others."""
        return self._wiring.clients

    @property
    def moves(self) -> list[Any]:
        """Who got which netvm, and when."""
        return self._wiring.moves

    def complete(self, document: dict[str, Any]) -> dict[str, Any]:
        """A pillar; one that says nothing of resolvers has that of the lab's internet."""
        servers = {"servers": {"lab": self.names.stamps["dnscrypt"]}}
        resolvers = {"sys-dns": {"template": "t-dns", "dnscrypt": servers}}
        return {"vaults": ["vault"], "resolvers": resolvers, **document}

    def call(self, name: str, method: str, argument: str = "", payload: str = "") -> None:
        """The user does something in dom0."""
        self.qubesd.call(name, method, argument, payload.encode())
        self.followed()

    def start(self, *names: str) -> None:
        """`qvm-start`, what is upstream first."""
        for name in names:
            self.call(name, "admin.vm.Start")

    def restart(self, name: str) -> None:
        """`qvm-kill` and `qvm-start`, while its clients run."""
        self.call(name, "admin.vm.Kill")
        self.call(name, "admin.vm.Start")

    def dom0(self, document: dict[str, Any], *words: str) -> Applied:
        """`qubesctl --dom0-only state.sls qubes.network.sys-vpn` with this pillar."""
        self.salt.give(self.complete(document))
        done = self.salt.dom0.qubesctl("state.sls", SLS, "--out=json", *words)
        self.followed()
        return Applied.read(done, "local")

    def targets(self, *names: str, test: bool = False) -> dict[str, Applied]:
        """`qubesctl --skip-dom0 --targets=NAMES state.sls ...`, of qubes that run."""
        words = ("state.sls", SLS, "--out=json", f"test={test}")
        there = [self.qubes[name] for name in names]
        told = self.salt.qubesctl(*words, targets=there, skip_dom0=True)
        return {name: Applied.read(one.done, name) for name, one in told.items()}

    def make(self, document: dict[str, Any], tunnels: dict[str, int], *others: str) -> None:
        """All of it, from the pillar to a client that runs.

        tunnels: which server each has, the one at the uplink first.  others: targets that have no
        tunnel.
        """
        self._tunnels, self._past = tunnels, tuple(document.get("outside_vpn", ()))
        well({"dom0": self.dom0(document)})
        self.start(*tunnels, *others)
        for name in tunnels:
            put_profiles(self.qubes[name], self.provider)
        well(self.targets(*tunnels, *others))
        for name, number in tunnels.items():
            up(self.qubes[name], PROFILES[number], 60)
        self.start(*document["routes"]["qubes"])
        self.well()

    def well(self) -> None:
        """Waits until all tunnels are up, and all clients have names."""
        for name, number in self._tunnels.items():
            up(self.qubes[name], PROFILES[number], 90)
        for name in self.clients:
            self.resolves(name)

    def behind(self) -> dict[str, Qube]:
        """The clients that are not past the VPN on purpose."""
        return {name: qube for name, qube in self.clients.items() if name not in self._past}

    def broken(self, what: str, do: Callable[["Whole"], None]) -> dict[str, Captured]:
        """What is seen while something breaks and comes back, and everybody talks all the time.

        Also the programs of the VPN qube that is next to the clients; by all protocols, right after
        it has broken.
        """
        with self.recorded(what.replace(" ", "-")) as found, self.talking(*self.clients):
            do(self)
            for name, qube in self.behind().items():
                salvo.fire(qube, salvo.salvo(_TARGETS, MARKER + name.encode()))
            nearest = self.qubes[[*self._tunnels][-1]]
            salvo.fire(nearest.network, salvo.salvo(_TARGETS, MARKER))
            self.well()
        return found

    def followed(self) -> None:
        """What dom0 was told has been done here."""
        if self._follower.trouble:
            raise self._follower.trouble[0]

    def resolves(self, client: str) -> None:
        """Waits until a client has names, from whoever is to give them."""
        behind = "dnscrypt" if "sys-dns" in self.qubes else "tunnel"
        answer = "plain" if client in self._past else behind
        self._count += 1
        question = Question("10.139.1.1", f"{client}-{self._count}.example.org", wait=1)
        qube = self.clients[client]
        found = Asking(qube, question, every=0.1, for_=90 * SLOWNESS).answer()
        assert found.addresses == [ANSWERS[answer]], found

    @contextmanager
    def talking(self, *clients: str) -> Iterator[None]:
        """These clients send the marker all the time, and ask for it as a name."""
        with ExitStack() as stack:
            for client in clients:
                word = MARKER + client.encode()
                for program in (
                    talker.program(word, ELSEWHERE),
                    talker.program(_question(word), "10.139.1.1", 53, 0.05),
                ):
                    process = self.clients[client].popen(["python3", "-c", program])
                    stack.callback(process.wait)
                    stack.callback(process.kill)
            yield

    @contextmanager
    def recorded(self, name: str, **where: tuple[Any, Any, str]) -> Iterator[dict[str, Captured]]:
        """What is seen meanwhile, by place: `line`, and each server's far side, `exit1`, `exit2`.

        where: more places, as :class:`Capture` has them.
        """
        internet, net = self.lab.internet, self.qubes["sys-net"]
        places = {f"exit{number}": (internet, internet, f"ovs{number}") for number in ENDPOINTS}
        cables = {"line": (net.network, internet, net.vif), **where}
        found: dict[str, Captured] = {}
        with ExitStack() as stack:
            running = {
                place: stack.enter_context(
                    Capture(*ends, self._folder / f"{name}-{place}.pcap", proven=place in cables)
                )
                for place, ends in (places | cables).items()
            }
            yield found
            for place, capture in running.items():
                found[place] = capture.finish(proven=place in cables)

    def uplink(self, name: str) -> tuple[Any, Any, str]:
        """A qube's cable, for :meth:`recorded`."""
        qube = self.qubes[name]
        return qube.network, qube.upstream, qube.vif

    def _template(self, name: str, document: Mapping[str, Any]) -> Template:
        made = formula.template(self.lab, name, document, self._folder / name)
        if name == "t-dns":
            trusted = "cat >>/etc/ssl/certs/ca-certificates.crt"
            made.run(trusted, input=self.names.ca.read_text())
        made.stop()
        return made


def killed(name: str) -> Callable[[Whole], None]:
    """The tunnel's program; NetworkManager then gives the qube a default route past it."""
    return lambda machine: machine.qubes[name].run(f"kill -KILL {openvpn(machine.qubes[name])}")


def restarted(name: str) -> Callable[[Whole], None]:
    """A qube, while its clients run."""
    return lambda machine: machine.restart(name)


def _question(word: bytes) -> bytes:
    """For the address of a name of one label."""
    return b"\0\1\1\0\0\1\0\0\0\0\0\0" + bytes([len(word)]) + word + b"\0\0\1\0\1"


def came_out(captured: Captured, client: str) -> set[str]:
    """Where the packets went that a client sent, and that came out of a tunnel, or out in clear."""
    frames = captured.marked(MARKER + client.encode())
    return {str(ipaddress.ip_address(decode(frame.data).destination)) for frame in frames}


def well(runs: dict[str, Applied]) -> None:
    """All went well."""
    for name, run in runs.items():
        assert (run.code, run.results()) == (0, {True}), (name, run.text)


def leaks(captured: Captured, *servers: int, inside: int | None = None) -> list[str]:
    """What has been seen but the packets of these servers' tunnels.

    inside: whose tunnel's far side it is, where the VPN qube asks the resolver for names, and
    NetworkManager anybody for that of its own address.
    """
    own = ipaddress.ip_address(f"10.64.{inside or 0}.1").packed
    frames = [one for one in captured.frames if not (inside and _REVERSE in one.data)]
    oracle = Oracle([ENDPOINTS[number] for number in servers], MARKER)
    verdict = oracle.judge(Captured(tuple(frames), captured.trouble))
    assert not verdict.trouble, verdict
    found = [leak for leak in verdict.leaks if leak.packet.kind not in _CHATTER]
    return [str(leak) for leak in found if leak.packet.destination != own]
