# SPDX-License-Identifier: GPL-2.0-or-later
"""sys-dns in the booted lab: behind a real tunnel, with clients, servers and whoever listens.

    internet: OpenVPN server, DNSCrypt and DoH upstreams, plain DNS everywhere
      sys-vpn: the tunnel
        sys-dns: dnscrypt-proxy
          work: a client
          sys-firewall: Qubes alone, nothing of the formula
            far: a client of that one

All of the formula's is its own: templates by its SLS, qubes by its states.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from provider import Provider
from tunnelled import apply, put_profiles, state_functions, up

from qubes_vpn_formula.lab.booted import formula
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted, Template
from qubes_vpn_formula.lab.capture import Capture
from qubes_vpn_formula.lab.nameservers import ADDRESSES, ANSWERS, Nameservers
from qubes_vpn_formula.lab.qube import Inside
from qubes_vpn_formula.lab.questions import Answer, Asking, Eavesdropper, Question, ask

RESOLVER = "/usr/lib/qubes-vpn/resolver"
PROXY = "dnscrypt-proxy.service"
#: The one that 10.139.1.1 and .2 are to a client, a public one, and one of IPv6.
ASKED = ("10.139.1.1", "10.139.1.2", "8.8.8.8", "2001:4860:4860::8888")
#: The resolver list, by a name that only an upstream knows.
LIST_URL = "https://doh.lab.example/resolvers.md"
#: Seconds until a resolver that can answer does: dnscrypt-proxy itself retries every 10 s or so.
SOON = 60.0
WORD = "word-of-the-lab"


class Machine:
    """Built but for the qubes that resolve; a context manager is `lab`, which it lives in.

    with_sys_net: between sys-vpn and the internet is another qube.
    """

    def __init__(self, lab: Booted, folder: Path, with_sys_net: bool = False) -> None:
        self.lab, self._folder = lab, folder
        for name in ("vpn", "names", "salt", "t-vpn", "t-dns"):
            (folder / name).mkdir()
        self.provider = Provider(folder / "vpn", lab.internet)
        self.provider.serve(1)
        self.names = Nameservers(folder / "names", lab.internet)
        for name in ("dnscrypt", "doh", "plain"):
            self.names.serve(name)
        # An upstream knows one address for every name.
        target = f"ip daddr {ANSWERS['dnscrypt']} tcp dport 443 dnat to {ADDRESSES['doh']}"
        chain = f"chain c {{ type nat hook prerouting priority dstnat; {target}; }}"
        lab.internet.run(["nft", f"table ip lists {{ {chain}; }}"])
        self._functions = state_functions(folder / "salt")[False]
        self._count = itertools.count(1)
        self.document: dict[str, Any] = {
            "tunnels": {
                "sys-vpn": {
                    "kind": "openvpn",
                    "template": "t-vpn",
                    "profile": "one.ovpn",
                    "endpoints": ["198.51.100.1:1194/udp"],
                }
            },
            "resolvers": {"sys-dns": {"template": "t-dns", "upstream": "sys-vpn", "dnscrypt": {}}},
        }
        self.settings({"servers": {"lab": self.names.stamps["dnscrypt"]}})
        self._plain: Template | None = None
        self.net = self._without_formula("sys-net", None) if with_sys_net else None
        self.vpn = self._vpn()
        self.dns = self._dns()
        self.client = lab.client("work", netvm=self.dns)
        self._firewall: AppVM | None = None

    @property
    def nearest(self) -> AppVM:
        """Whose client :attr:`client` is."""
        return self.dns

    @property
    def qubes(self) -> dict[str, Inside]:
        """Those that run, but for clients."""
        named = {"sys-net": self.net, "sys-vpn": self.vpn, "sys-dns": self.dns}
        return {name: qube for name, qube in named.items() if qube}

    def settings(self, dnscrypt: dict[str, Any]) -> None:
        """What the pillar says of dnscrypt-proxy; :meth:`apply` makes it so."""
        self.document["resolvers"]["sys-dns"]["dnscrypt"] = dnscrypt

    def apply(self, qube: AppVM) -> None:
        """The formula's states for a qube, in their order, run in it."""
        apply(self.document, self._functions, qube)

    def firewall(self) -> AppVM:
        """sys-firewall, which runs, and its client :attr:`far`."""
        if self._firewall is None:
            self._firewall = self._without_formula("sys-firewall", self.dns)
            self.far = self.lab.client("far", netvm=self._firewall)
        self.start(self.vpn, self.dns, self._firewall)
        return self._firewall

    def new_name(self) -> str:
        """One that nobody has asked for before, so that no cache has it."""
        return f"{WORD}-{next(self._count)}.example.org"

    def ask(self, qube: Inside, *servers: str, **more: Any) -> list[Answer]:
        """Answers to a new name each."""
        return ask(qube, *(Question(server, self.new_name(), **more) for server in servers))

    def resolves(
        self,
        server: str = ASKED[0],
        protocol: str = "udp",
        qube: Inside | None = None,
        within: float = SOON,
    ) -> str:
        """The first answer to a client that asks again and again; AssertionError without one.

        within: seconds.

        Again, also because dnsdist drops a question over TCP whose padding is longer than the 256
        bytes that DNSCrypt allows, and dnscrypt-proxy 2.1.8 now and then makes it so.
        """
        question = Question(server, self.new_name(), protocol, wait=1)
        answer = Asking(qube or self.client, question, every=0.05, for_=within).answer()
        assert answer.addresses, (answer, self.said(), self.links())
        (address,) = answer.addresses
        return address

    def silent(self, seconds: float) -> None:
        """The client gets no answer, all the time."""
        question = Question(ASKED[0], self.new_name(), wait=0.5)
        answer = Asking(self.client, question, every=0.05, for_=seconds).answer()
        assert not answer.addresses, answer

    def said(self) -> Any:
        """What `resolver status --json` says in sys-dns."""
        done = self.dns.run([RESOLVER, "status", "--json"], check=False, timeout=90)
        return json.loads(done.stdout) if done.stdout else done.stderr

    def links(self) -> str:
        """How sys-dns and the client hang together, for who reads of a failure."""
        words = ["sh", "-c", "ip -br addr; ip -br link; ip route; ip neigh"]
        return "\n".join(qube.run(words).stdout for qube in (self.dns.network, self.client))

    def check(self) -> str:
        """What `resolver check` says is wrong."""
        done = self.dns.run([RESOLVER, "check"], check=False, timeout=120)
        return done.stdout + done.stderr

    def proxy(self, *words: str) -> str:
        """systemctl for dnscrypt-proxy."""
        return self.dns.run(["systemctl", *words, PROXY], check=False, timeout=90).stdout

    def start(self, *qubes: AppVM) -> None:
        """Those that do not run, netvms first; the tunnel up when sys-vpn is among them."""
        for qube in qubes or (self.net, self.vpn, self.dns):
            if qube and not qube.running:
                qube.start()
                if qube is self.vpn:
                    up(qube, "one.ovpn")

    @contextmanager
    def overheard(self, folder: Path, *, cold: Sequence[AppVM] = ()) -> Iterator[None]:
        """Nothing is in clear on any uplink, and what the tunnel brings to its far side is not
        either; AssertionError else.

        cold: qubes that are off, and are started here with their uplinks watched from before their
        first process.
        """
        with ExitStack() as stack:
            captures: dict[str, Capture] = {}

            def listen(name: str, *where: Any, proven: bool = True) -> None:
                file = folder / f"{name}.pcap"
                captures[name] = stack.enter_context(Capture(*where, file, proven=proven))

            def begin(qube: AppVM, proven: bool) -> None:
                listen(qube.name, qube.network, qube.upstream, qube.vif, proven=proven)

            internet = self.lab.internet
            # No cable, so no control frame goes there.
            listen("far side", internet, internet, "ovs1", proven=False)
            for qube in (self.vpn, self.dns):
                if qube not in cold:
                    begin(qube, True)
            for qube in cold:
                qube.start(plugged=lambda qube=qube: begin(qube, False))
                if qube is self.vpn:
                    up(qube, "one.ovpn")
            yield
            verdicts = {}
            for name, capture in captures.items():
                inside = name == "far side"
                ear = Eavesdropper(WORD, but=self.provider.resolver(1) if inside else None)
                verdicts[name] = str(ear.judge(capture.finish(proven=not inside)))
            assert set(verdicts.values()) == {"closed"}, verdicts

    def _without_formula(self, name: str, netvm: AppVM | None) -> AppVM:
        if self._plain is None:
            self._plain = self.lab.template("t-plain")
            self._plain.start()
            self._plain.stop()
        return self.lab.appvm(name, self._plain, netvm)

    def _vpn(self) -> AppVM:
        template = formula.template(self.lab, "t-vpn", self.document, self._folder / "t-vpn")
        template.stop()
        services = ["qubes-vpn", "network-manager"]
        qube = self.lab.appvm("sys-vpn", template, self.net, services=services)
        if self.net:
            self.net.start()
        qube.start()
        put_profiles(qube, self.provider)
        self.apply(qube)
        return qube

    def _dns(self) -> AppVM:
        template = formula.template(self.lab, "t-dns", self.document, self._folder / "t-dns")
        trusted = "cat >>/etc/ssl/certs/ca-certificates.crt"
        template.run(trusted, input=self.names.ca.read_text())
        template.stop()
        qube = self.lab.appvm("sys-dns", template, self.vpn, services=["qubes-vpn-dns"])
        qube.start()
        self.apply(qube)
        return qube
