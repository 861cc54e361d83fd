# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with a resolver qube: what is asked, who answers, what gets out of its uplink."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.packet import Packet, Raw

from qubes_vpn_formula.lab import resolverfiles, senders
from qubes_vpn_formula.lab.agent import Agent
from qubes_vpn_formula.lab.boot import hide_rw, parse, play
from qubes_vpn_formula.lab.capture import Capture
from qubes_vpn_formula.lab.chains import SYS_NET, Member
from qubes_vpn_formula.lab.machine import RESOLVER, Lab
from qubes_vpn_formula.lab.oracle import Verdict
from qubes_vpn_formula.lab.qube import Inside, Process
from qubes_vpn_formula.lab.questions import Answer, Eavesdropper, Question, ask
from qubes_vpn_formula.lab.traffic import Flood, Job, send

#: `client` is behind a firewall qube, `near` is the resolver's own client.
CHAIN = (
    SYS_NET,
    Member("sys-dns", "sys-net"),
    Member("sys-firewall", "sys-dns"),
    Member("client", "sys-firewall", provides=False),
    Member("near", "sys-dns", provides=False),
)
PUBLIC = {4: "8.8.8.8", 6: "2001:db8:51::1"}
#: Qubes' virtual addresses, and public resolvers; what a client may have in its resolv.conf.
ASKED = ("10.139.1.1", "10.139.1.2", PUBLIC[4], PUBLIC[6])
#: Who answers with it: the resolver in the qube; anybody who was reached in clear.
OURS, CLEAR = "203.0.113.77", "203.0.113.66"
WORD = "word-of-the-lab"
#: Addresses that Qubes could give to a client: IPv4, IPv6.
_GONE = ("10.137.0.99", "fd09:24ef:4179::a89:63")
_SERVER = Path(senders.__file__).parent / "inside/resolver.py"


class Machine:
    """All qubes have booted, the resolver with its rules.

    dns: the resolver; near: its client; client: one behind a firewall qube.
    """

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self._folder = lab, folder
        self.dns, self.near, self.client = (
            lab.qubes[name] for name in ("sys-dns", "near", "client")
        )
        self._resolvers: list[Process] = []

    def serve(self) -> None:
        """Somebody answers at every address that is asked in clear."""
        for address in (RESOLVER, *PUBLIC.values()):
            resolve(self.lab.internet, address, CLEAR)

    def start_resolver(self) -> None:
        """A stand-in for dnscrypt-proxy, listening as it does; it asks nobody."""
        self._resolvers = [resolve(self.dns, address, OURS) for address in ("0.0.0.0", "::")]  # noqa: S104

    def stop_resolver(self) -> None:
        for process in self._resolvers:
            process.terminate()
            process.wait()

    def rules(self, text: str | None = None, opened: bool = True) -> None:
        """The rules by themselves; text: others than ours."""
        text = resolverfiles.files()[resolverfiles.CLOSED][0] if text is None else text
        opening = "add element inet qubes_vpn open_ports { 53 }\n" if opened else ""
        # Without the table from before, in which another rule set's chains may be of another kind.
        anew = "add table inet qubes_vpn\ndelete table inet qubes_vpn\n"
        self.dns.run(["nft", "-f", "-"], input=anew + text + opening)

    def resolver(self, *words: str) -> int:
        """The program; its exit code."""
        return self.dns.run([resolverfiles.COMMAND, *words], check=False).returncode

    def open(self) -> None:
        """As the watch does once the resolver has answered."""
        module = "import sys; sys.path.insert(0, '/usr/lib/qubes-vpn'); import qubes_vpn_resolver"
        code = f"{module}; sys.exit(str(qubes_vpn_resolver.open_up().problems or '') or 0)"
        self.dns.run(["/usr/bin/python3", "-IBc", code])

    def overheard(self, do: Callable[[], object]) -> tuple[object, Verdict]:
        """What `do()` returns, and what an eavesdropper on the uplink makes of the time."""
        far, device = self.lab.far_side("sys-dns")
        file = self._folder / f"{secrets.token_hex(4)}.pcap"
        with Capture(self.dns, far, device, file) as capture:
            done = do()
            return done, Eavesdropper(WORD).judge(capture.finish())

    @contextmanager
    def asking(self, rate: float) -> Iterator[None]:
        """Meanwhile `near` asks in both families; no flow is known for longer than an instant.

        So that each question has to ask the rules.
        """
        floods = [
            questions(self.lab.address("near", family), public, rate)
            for family, public in PUBLIC.items()
        ]
        forget = self.dns.popen("while sleep 0.005; do conntrack -F; done >/dev/null 2>&1")
        with Flood(self.near, floods[0]) as one, Flood(self.near, floods[1]) as other:
            yield
            assert one.stop().packets
            assert other.stop().packets
        forget.kill()

    def evil(self, uplink: str = "eth0") -> None:
        """Every way of plain DNS that we could think of, from clients and from the qube itself."""
        near, own = self.lab.address, self.dns
        for family, public in PUBLIC.items():
            source = near("near", family)
            send(self.near, *_clients(source, public, near("sys-dns", family)))
            send(own, *_own(near("sys-dns", family), public, uplink))
        send(self.client, *senders.dns(PUBLIC[4], WORD.encode()))


def questions(source: str, public: str, rate: float) -> Job:
    """Datagrams to port 53 from many ports, at so many a second until stopped."""
    header = IPv6(src=source, dst=public) if ":" in public else IP(src=source, dst=public)
    word = Raw(WORD.encode())
    packets = [header / UDP(sport=port, dport=53) / word for port in range(20000, 20200)]
    return replace(senders.with_header(*packets), rate=rate)


def _clients(source: str, public: str, gateway: str) -> Iterator[Job]:
    word = WORD.encode()
    for to in (public, gateway, *ASKED[:2]):
        if (":" in to) == (":" in source):
            yield from senders.dns(to, word, wait=0.02)
    nobody = "" if ":" not in public else "::"
    yield senders.udp(public, 853, word)
    yield senders.udp(public, 53, word, source=(nobody, 53))
    yield senders.udp(public, 53, word, source=(nobody, 853))
    yield senders.udp(public, 4000, word, source=(nobody, 53))
    yield senders.large_udp(public, 53, word)
    yield from (senders.with_header(piece) for piece in senders.odd_tcp(source, public, 53, word))
    for pieces in senders.fragments(source, public, 53, word).values():
        yield senders.with_header(*pieces)
    for packet in senders.routed(source, public, 53, word, gateway):
        yield senders.with_header(packet)
    for number in (33, 132, 136):  # DCCP, SCTP, UDP-Lite, which has UDP's header
        header = (40000).to_bytes(2) + (53).to_bytes(2) + bytes(4)
        yield Job("raw", [header + word], public, protocol=number)
    yield senders.with_header(_error(source, public, word))


def _answer(source: str, to: str, word: bytes) -> Packet:
    """A datagram from port 53."""
    header = IPv6(src=source, dst=to) if ":" in to else IP(src=source, dst=to)
    return header / UDP(sport=53, dport=40001) / Raw(word * 3)


def _error(source: str, public: str, word: bytes) -> Packet:
    """An error about an answer of a flow that nobody knows, which quotes it."""
    quoted = _answer(public, source, word)
    if ":" in source:
        return IPv6(src=source, dst=public) / ICMPv6DestUnreach(code=4) / quoted
    return IP(src=source, dst=public) / ICMP(type=3, code=3) / quoted


def _own(own: str, public: str, uplink: str) -> Iterator[Job]:
    word = WORD.encode()
    yield from senders.dns(public, word, wait=0.02)
    yield senders.udp(public, 853, word)
    # The resolver's answer to a client that has gone, whose address is routed to the uplink now.
    yield senders.with_header(_answer(own, _GONE[":" in public], word))
    yield senders.large_udp(public, 53, word)
    for group, port in (("224.0.0.251", 5353), ("224.0.0.252", 5355), ("ff02::fb", 5353)):
        if (":" in group) == (":" in public):
            yield senders.udp(group, port, word, device=uplink)


def resolve(qube: Inside, address: str, answer: str) -> Process:
    """A name server in a qube, or in the internet."""
    process = qube.popen(["python3", "-I", str(_SERVER), address, answer], stdout=PIPE, text=True)
    assert process.stdout.readline() == "listening\n"
    return process


def install(lab: Lab, flag: bool = True) -> None:
    """The template's files; flag: the qube's service."""
    qube = lab.qubes["sys-dns"]
    for path, (text, mode) in resolverfiles.files().items():
        qube.write(path, text, mode)
    if flag:
        qube.qubesdb[resolverfiles.FLAG] = "1"


def boot_resolver(lab: Lab) -> None:
    """Boots sys-dns with the unit of the rules."""
    qube = lab.qubes["sys-dns"]
    unit = parse("qubes-vpn-dns-closed.service", qube.read(resolverfiles.UNIT))
    hide_rw(qube)
    play(qube, [*lab.units("sys-dns"), unit])


@contextmanager
def machine(folder: Path, agent: Agent | None = None) -> Iterator[Machine]:
    """A machine with the resolver's files that is up."""
    with Lab(CHAIN, agent=agent) as lab:
        made = Machine(lab, folder)
        install(lab)
        lab.boot("sys-net")
        boot_resolver(lab)
        for name in ("sys-firewall", "client", "near"):
            lab.boot(name)
        made.serve()
        yield made


def answers(qube: Inside, *servers: str, protocol: str = "udp", wait: float = 1.0) -> list[Answer]:
    """What these servers answer to a question whose name is the eavesdropper's word."""
    name = f"{WORD}.example.org"
    return ask(qube, *(Question(server, name, protocol, wait=wait) for server in servers))
