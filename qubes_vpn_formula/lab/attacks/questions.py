# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks on clients' DNS: it goes to the tunnel's resolver or nowhere (R50, R52, R55).

The answers tell who gave them: a resolver in the tunnel, or one of those outside, at public
addresses and where sys-net gets its own.
"""

import itertools
import signal
import time
from pathlib import Path

from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.cell import Cell
from qubes_vpn_formula.lab.machine import RESOLVER, SERVER
from qubes_vpn_formula.lab.qube import Process
from qubes_vpn_formula.lab.questions import Question, ask
from qubes_vpn_formula.lab.traffic import Flood, Job, Resolver, TrafficError

section = Section("Clients' DNS")

_FOLLOWER = "/usr/lib/qubes-vpn/dns"
_WRITTEN = "/run/qubes-vpn/resolvers"
#: The two addresses that Qubes gives clients.
_QUBES = ("10.139.1.1", "10.139.1.2")
_HANGUP = 1 << signal.SIGHUP - 1
#: What each answers: the tunnel's three, and whoever is outside.
_FIRST, _SECOND, _SIX, _OUTSIDE = (f"192.0.2.{number}" for number in (1, 2, 6, 66))
#: In shell: whether clients' DNS goes to these and no others, waited for.
_UNTIL = (
    "n=0; until [ \"$(cat {} 2>/dev/null)\" = '{}' ];"
    " do n=$((n+1)); [ $n -lt 500 ] || exit 1; sleep 0.01; done"
)


class _Dns:
    """Resolvers outside, and in the VPN qube the follower; :meth:`serve` makes those inside.

    first, second, six: addresses for them.
    """

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self.first, self.six = cell.tunnel.inner
        self.second = f"{self.first.rpartition('.')[0]}.53"
        device = f"wgs{cell.tunnel.number}"
        cell.lab.internet.run(["ip", "address", "add", f"{self.second}/32", "dev", device])
        for address in (RESOLVER, *SERVER.values()):
            Resolver(cell.lab.internet, address, _OUTSIDE)
        self._follower = None
        if cell.vpn.exists(_FOLLOWER):
            self._follower = cell.vpn.popen([_FOLLOWER, "follow"])
            _listens(self._follower)

    @property
    def asked(self) -> list[str]:
        """Whom clients ask: Qubes' two, the VPN qube, servers of both families."""
        return [*_QUBES, self._cell.lab.address("sys-vpn"), RESOLVER, SERVER[4], SERVER[6]]

    def serve(self, address: str, answer: str) -> Resolver:
        """A resolver in the tunnel."""
        return Resolver(self._cell.lab.internet, address, answer)

    def named(self, *addresses: str) -> None:
        """The tunnel names these from now on, as the Mullvad app does, and Qubes follows too."""
        lines = "".join(f"nameserver {one}\n" for one in addresses)
        self._cell.vpn.write("/etc/resolv.conf", lines)
        self._cell.lab.agent.dnat(self._cell.vpn)
        if self._follower:
            self._follower.send_signal(signal.SIGHUP)

    def opened(self, *addresses: str) -> None:
        """They are named, and clients' DNS goes there."""
        self.named(*addresses)
        if self._follower:
            until = _UNTIL.format(_WRITTEN, "\n".join(addresses))
            done = self._cell.vpn.run(until, check=False)
            self._cell.require(not done.returncode, f"clients' DNS does not go to {addresses}")


def _listens(follower: Process) -> None:
    """Waits until it may be sent a SIGHUP."""
    status = Path(f"/proc/{follower.program()}/status")
    until = time.monotonic() + 10
    while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) & _HANGUP:
        if time.monotonic() > until:
            raise TrafficError("the follower does not listen")
        time.sleep(0.01)


@section.attack("Q01", "a client asks any address, tunnel up", "WORK", "OUT", fast=True)
def any_address(cell: Cell) -> None:
    """Over UDP and TCP, IPv4 and IPv6; Qubes' own chain translates to the tunnel's, then not."""
    cell.start()
    dns = _Dns(cell)
    for address, answer in ((dns.first, _FIRST), (dns.second, _SECOND), (dns.six, _SIX)):
        dns.serve(address, answer)
    cell.phase("Qubes' chain as Qubes writes it")
    dns.opened(dns.first, dns.second, dns.six)
    _answered(cell, dns)
    cell.phase("Qubes' chain as the uplink would have it")
    rules = [
        f"add rule ip qubes dnat-dns ip daddr {one} {protocol} dport 53 dnat to {RESOLVER}"
        for one in _QUBES
        for protocol in ("udp", "tcp")
    ]
    cell.vpn.run(["nft", "; ".join(["flush chain ip qubes dnat-dns", *rules])])
    _answered(cell, dns)


def _answered(cell: Cell, dns: _Dns) -> None:
    """Each question has the answer of the tunnel's resolver; second asked is second answers."""
    kinds = list(itertools.product(dns.asked, ("udp", "tcp")))
    answers = ask(
        cell.client, *(Question(server, "a.example", how, wait=1) for server, how in kinds)
    )
    cell.sent += len(answers)
    for (server, how), answer in zip(kinds, answers, strict=True):
        right = _SIX if ":" in server else _SECOND if server == _QUBES[1] else _FIRST
        said = answer.addresses or answer.error
        cell.require(answer.addresses == [right], f"{server} over {how}: {said}, not {right}")


@section.attack("Q02", "a client asks while no resolver has answered", "IN", "OUT", fast=True)
def nobody(cell: Cell) -> None:
    """The tunnel is up; it names nobody, the uplink's, one who is silent, one who refuses."""
    cell.start()
    dns = _Dns(cell)
    dns.serve(dns.second, "refused")
    cell.watch_tunnel(cell.phases.prefix)
    named = {"nobody": (), "the uplink's": _QUBES, "silent": [dns.first], "no": [dns.second]}
    for name, addresses in named.items():
        dns.named(*addresses)
        for turn in range(2):
            marker = cell.phase(f"named: {name}, {turn}")
            cell.send(cell.client, *_questions(dns, marker), routed=False)
            time.sleep(0.2)


@section.attack("Q03", "the tunnel goes, and comes with another resolver", "OUT", "WORK")
def tunnel_goes(cell: Cell) -> None:
    """Set down, killed; under a flood of questions, with the uplink's translation by Qubes."""
    cell.start()
    dns = _Dns(cell)
    for address in (dns.first, dns.second):
        dns.serve(address, _FIRST)
    dns.opened(dns.first)
    question = senders.dns(_QUBES[0], cell.phase("questions"), rate=1000)[0]
    with Flood(cell.client, question) as flood:
        for go, named in ((cell.tunnel_down, dns.second), (cell.tunnel_kill, dns.first)):
            go()
            cell.route_to_uplink()
            dns.named(*_QUBES)
            marker = cell.phase(f"{go.__name__}: everybody is asked")
            cell.send(cell.client, *_questions(dns, marker), routed=False)
            cell.tunnel_up()
            dns.opened(named)
            answer = ask(cell.client, Question(_QUBES[0], "a.example"))[0]
            cell.require(answer.addresses == [_FIRST], f"after {go.__name__}: {answer.error}")
        sent = flood.stop()
    cell.sent += sent.packets


@section.attack("Q04", "the resolver changes under a client's flows", "STATE", "WORK")
def changes(cell: Cell) -> None:
    """Questions from one port, to three addresses: then the new one hears all, the old nothing."""
    cell.start()
    dns = _Dns(cell)
    old, new = dns.serve(dns.first, _FIRST), dns.serve(dns.second, _SECOND)
    for name, address in (("the old one", dns.first), ("the new one", dns.second)):
        dns.opened(address)
        marker = cell.phase(name)
        for asked in (_QUBES[0], SERVER[4], dns.first):
            question = senders.dns(asked, marker, source=("", 40053))[0]
            cell.send(cell.client, question)
            time.sleep(0.1)
    for name, resolver in (("old", old), ("new", new)):
        heard = resolver.stop()
        cell.require(heard == 3, f"the {name} resolver has heard {heard} questions, not 3")


@section.attack("Q05", "loads again and again, a client asks", "WORK", "OUT", "IN")
def loads(cell: Cell) -> None:
    """Each question has the tunnel's answer, during 20 loads; Qubes' chain changes meanwhile."""
    cell.start()
    command = cell.command
    dns = _Dns(cell)
    dns.serve(dns.first, _FIRST)
    dns.opened(dns.first)
    cell.phase("loads")
    done = "/run/loaded"
    script = f"for n in $(seq 20); do {command} load || exit; done; touch {done}"
    process = cell.vpn.popen(script)
    asked = [Question(server, "a.example", wait=0.5) for server in dns.asked[:5]] * 20
    rounds = 0
    while rounds == 0 or process.poll() is None:
        rounds += 1
        cell.sent += len(asked)
        said = {tuple(answer.addresses) or answer.error for answer in ask(cell.client, *asked)}
        if said != {(_FIRST,)}:
            cell.require(False, f"round {rounds}: {said}")
            return
        cell.lab.agent.dnat(cell.vpn)
    cell.require(cell.vpn.exists(done), "it does not load")
    cell.require(rounds > 1, "no question was asked during a load")


@section.attack("Q06", "the user's rule translates a client's DNS to another port", "IN", "OUT")
def other_port(cell: Cell) -> None:
    """Before ours, to a resolver in the tunnel that is not the tunnel's."""
    cell.start()
    dns = _Dns(cell)
    dns.serve(dns.first, _FIRST)
    dns.opened(dns.first)
    cell.watch_tunnel(cell.phases.prefix)
    for family, target in (("ip", dns.second), ("ip6", f"[{dns.six}]")):
        rule = f"meta l4proto {{ tcp, udp }} th dport 53 dnat to {target}:5353"
        hook = "type nat hook prerouting priority dstnat - 20; policy accept;"
        table = f"table {family} user {{ chain before {{ {hook} {rule}; }}; }}\n"
        cell.vpn.run(["nft", "-f", "-"], input=table)
    for turn in ("new flows", "the same again"):
        marker = cell.phase(turn)
        cell.send(cell.client, *_questions(dns, marker), routed=False)
        time.sleep(0.2)


def _questions(dns: _Dns, marker: bytes) -> list[Job]:
    """One of everybody, over UDP and TCP; a connection to DNS over TLS is none."""
    return [job for one in dns.asked for job in senders.dns(one, marker, wait=0.03)[:2]]
