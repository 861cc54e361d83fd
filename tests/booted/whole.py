# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole machine that dom0 makes of a pillar, on qubes that boot (R88).

    internet: OpenVPN servers 1 and 2, DNSCrypt and plain DNS everywhere
      sys-net, and behind it what the pillar says

qubesctl runs as in Qubes; what it makes, starts and moves in the embedded Qubes is made, started
and moved here, before dom0 goes on (:mod:`qubes_vpn_formula.lab.booted.wiring`).  Templates have
what their SLS puts there: test_real_path.py has Salt itself do that.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import talker
from provider import Provider
from tunnelled import put_profiles, up

from qubes_vpn_formula.embedded.followers import Follower
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.lab.booted import formula
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted, Template
from qubes_vpn_formula.lab.booted.salt import SLS, Salt
from qubes_vpn_formula.lab.booted.wiring import Wiring
from qubes_vpn_formula.lab.capture import Capture, Captured
from qubes_vpn_formula.lab.nameservers import ANSWERS, Nameservers
from qubes_vpn_formula.lab.oracle import Endpoint, Oracle
from qubes_vpn_formula.lab.qube import SLOWNESS, Qube
from qubes_vpn_formula.lab.questions import Asking, Question
from qubes_vpn_formula.masterless import Applied

MARKER, ELSEWHERE = b"leak-of-the-whole-machine", "203.0.113.77"
#: By its number: where a server is, and its tunnel's own end there.
ENDPOINTS = {number: Endpoint("udp", f"198.51.100.{number}", 1194) for number in (1, 2)}
PROFILES = {1: "one.ovpn", 2: "two.ovpn"}
CLIENTS = ("work", "personal", "untrusted")
#: The template of what Qubes itself has made.
_PLAIN = "fedora-42-xfce"
#: ICMPv6 that a kernel sends by itself.
_CHATTER = (131, 132, 133, 143)


def tunnel(number: int, **more: Any) -> dict[str, Any]:
    """A tunnel of a pillar, to that server."""
    server = f"198.51.100.{number}:1194/udp"
    made = {"kind": "openvpn", "template": "t-vpn", "profile": PROFILES[number]}
    return {**made, "endpoints": [server], **more}


class Whole:
    """See the module; nothing is made yet.  A context manager is `stack`, which it lives in."""

    def __init__(
        self, lab: Booted, stack: ExitStack, folder: Path, document: dict[str, Any]
    ) -> None:
        self.lab, self._folder, self._stack = lab, folder, stack
        for name in ("vpn", "names", "t-vpn", "t-dns"):
            (folder / name).mkdir()
        self.provider = Provider(folder / "vpn", lab.internet)
        for number in ENDPOINTS:
            self.provider.serve(number)
        self.names = Nameservers(folder / "names", lab.internet)
        for name in ("dnscrypt", "plain"):
            self.names.serve(name)
        self.qubesd = EmbeddedQubes(folder / "qubes.json", "4.3")
        self.salt = Salt(folder / "qubesctl", qubes=self.qubesd)
        document = self.complete(document)
        plain = lab.template("t-plain")
        plain.start()
        plain.stop()
        templates = {_PLAIN: plain} | {
            name: self._template(name, document) for name in ("t-vpn", "t-dns")
        }
        self._wiring = Wiring(lab, templates, CLIENTS)
        self._follower = stack.enter_context(Follower(self.qubesd.path, self._wiring.follow))
        synced = self.salt.dom0.qubesctl("saltutil.sync_all", "--out=json")
        assert synced.returncode == 0, synced.stdout + synced.stderr
        self._count = 0

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
        """A pillar, with the resolver that the lab's internet has."""
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
        well({"dom0": self.dom0(document)})
        self.start(*tunnels, *others)
        for name in tunnels:
            put_profiles(self.qubes[name], self.provider)
        well(self.targets(*tunnels, *others))
        for name, number in tunnels.items():
            up(self.qubes[name], PROFILES[number], 60)
        self.start(*document["routes"]["qubes"])
        for name in document["routes"]["qubes"]:
            self.resolves(name)

    def followed(self) -> None:
        """What dom0 was told has been done here."""
        if self._follower.trouble:
            raise self._follower.trouble[0]

    def resolves(self, client: str = "work", answer: str = "dnscrypt") -> None:
        """Waits until a client has names, from whoever is to give them."""
        self._count += 1
        question = Question("10.139.1.1", f"{client}-{self._count}.example.org", wait=1)
        qube = self.clients[client]
        found = Asking(qube, question, every=0.1, for_=90 * SLOWNESS).answer()
        assert found.addresses == [ANSWERS[answer]], found

    @contextmanager
    def talking(self, *clients: str) -> Iterator[None]:
        """These clients send the marker all the time, and ask for names."""
        with ExitStack() as stack:
            for client in clients:
                text = talker.program(MARKER + client.encode(), ELSEWHERE)
                process = self.clients[client].popen(["python3", "-c", text])
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


def well(runs: dict[str, Applied]) -> None:
    """All went well."""
    for name, run in runs.items():
        assert (run.code, run.results()) == (0, {True}), (name, run.text)


def leaks(captured: Captured, *servers: int, inside: int | None = None) -> list[str]:
    """What has been seen but the packets of these servers' tunnels.

    inside: whose tunnel's far side it is, where the VPN qube asks the resolver.
    """
    own = ipaddress.ip_address(f"10.64.{inside or 0}.1").packed
    verdict = Oracle([ENDPOINTS[number] for number in servers], MARKER).judge(captured)
    assert not verdict.trouble, verdict
    found = [leak for leak in verdict.leaks if leak.packet.kind not in _CHATTER]
    return [str(leak) for leak in found if leak.packet.destination != own]
