# SPDX-License-Identifier: GPL-2.0-or-later
"""Traffic from inside qubes: packets sent, floods, flows that go on, and what works."""

import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from qubes_vpn_formula.lab.closing import Closing
from qubes_vpn_formula.lab.qube import Qube

_INSIDE = Path(__file__).with_name("inside")


class TrafficError(Exception):
    """A sender or server did not do its work, so that nothing can be concluded."""


def new_marker() -> bytes:
    """What senders put into payloads: unique, short enough for a DNS label or a fragment."""
    return b"leak-" + secrets.token_hex(5).encode("ascii")


@dataclass(frozen=True)
class Job:
    """Packets for one socket.

    socket: `udp`, `tcp`, `fastopen` (TCP with data in its SYN), `raw` (the kernel adds the IP
        header), `header` (data has its IP header), `link` (AF_PACKET, the kernel adds the Ethernet
        header) or `frame` (AF_PACKET, data is the whole frame).
    data: the packets or payloads.  count: how many times all of them.  rate: instead, packets a
        second until stopped.
    to: an IP address; a MAC address in hex for `link`; nothing for `frame`.
    port: UDP's or TCP's.  protocol: IP's for `raw`, the Ethernet type for `link`.
    device: bound to it; empty: any, for `link` and `frame` each Ethernet device.
    source: address and port to bind to.  options: (level, option, value), value a number or hex.
    wait: seconds for a TCP connection.
    """

    socket: str
    data: Sequence[bytes]
    to: str = ""
    port: int = 0
    protocol: int = 0
    device: str = ""
    source: tuple[str, int] | None = None
    options: Sequence[tuple[int, int, int | str]] = ()
    count: int = 1
    rate: float = 0
    wait: float = 0.1


@dataclass(frozen=True)
class Sent:
    """What the kernel took.  errors: what it refused, by errno's name (`EPERM`: by nftables)."""

    packets: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: "Sent") -> "Sent":
        names = {*self.errors, *other.errors}
        errors = {name: self.errors.get(name, 0) + other.errors.get(name, 0) for name in names}
        return Sent(self.packets + other.packets, errors)


def send(qube: Qube, *jobs: Job) -> Sent:
    """Does the jobs one after the other, in one process.

    Raises :class:`TrafficError` when nothing was even tried, `CommandFailed` when the sender fails.
    """
    plain = [_plain(job) for job in jobs]
    done = qube.run(_program("send.py"), input=json.dumps(plain))
    sent = _sum(done.stdout.splitlines())
    if not sent.packets and not sent.errors:
        raise TrafficError(f"{qube.name}: nothing to send in {jobs}")
    return sent


def _plain(job: Job) -> dict:
    return {**asdict(job), "data": [data.hex() for data in job.data]}


def _sum(lines: Iterable[str]) -> Sent:
    answers = [json.loads(line) for line in lines]
    return sum((Sent(answer["sent"], answer["errors"]) for answer in answers), Sent())


def _program(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-I", str(_INSIDE / name), *arguments]


class _Running(Closing):
    """A program in a qube that says a word when it is ready, and goes on until it is stopped.

    A context manager.  Raises :class:`TrafficError` when the program says something else.
    """

    def __init__(self, qube: Qube, program: list[str], word: str, given: object = None) -> None:
        pipe = subprocess.PIPE
        self._process = qube.popen(program, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        with contextlib.suppress(BrokenPipeError):  # it has ended: what it said tells why
            self._process.stdin.write(json.dumps(given))
            self._process.stdin.close()
        said = self._process.stdout.readline().strip()
        if said != word:
            problem = self._end()
            raise TrafficError(f"{qube.name}: {program[2]}: {said or 'ended'} {problem}".rstrip())

    def _end(self) -> str:
        """Ends the program; returns its complaints."""
        self._process.terminate()
        self._rest = self._process.stdout.read()
        problem = self._process.stderr.read()
        self._process.wait()
        return problem

    def _answer(self) -> list[str]:
        """Ends the program; returns the lines it said at its end."""
        problem = self._end()
        if problem or not self._rest:
            raise TrafficError(f"no answer at the end {problem}".rstrip())
        return self._rest.splitlines()

    def close(self) -> None:
        """End it, if nobody has."""
        if self._process.returncode is None:
            self._end()


class Flood(_Running):
    """Jobs with a rate, at that rate until stopped; a context manager."""

    def __init__(self, qube: Qube, job: Job) -> None:
        super().__init__(qube, _program("send.py"), "flooding", [_plain(job)])

    def stop(self) -> Sent:
        """Ends the flood."""
        return _sum(self._answer())


class Echo(_Running):
    """A server that sends back what it gets, over TCP and UDP; a context manager."""

    def __init__(self, qube: Qube, address: str, port: int) -> None:
        super().__init__(qube, _program("echo.py", address, str(port)), "listening")

    def stop(self) -> int:
        """Ends the server; how many datagrams and connections reached it."""
        return int(self._answer()[-1])


class Resolver(_Running):
    """A name server on port 53, over TCP and UDP; a context manager.

    answer: the IPv4 address of every name; `refused`: it refuses; `empty`: answers with nothing in
    them.  deaf: how many questions over UDP it does not hear at first.
    """

    def __init__(self, qube: Qube, address: str, answer: str, deaf: int = 0) -> None:
        super().__init__(qube, _program("resolver.py", address, answer, str(deaf)), "listening")

    def stop(self) -> int:
        """Ends the server; how many questions for a name it has heard."""
        return int(self._answer()[-1])


@dataclass(frozen=True)
class Exchange:
    """One protocol's messages to an :class:`Echo` and back.

    gap: the longest time without an answer, in seconds.
    """

    sent: int
    received: int
    gap: float
    errors: dict[str, int]

    @property
    def loss(self) -> float:
        """The part of the messages without an answer, 0 to 1; 1 when none was sent."""
        return 1 - self.received / self.sent if self.sent else 1.0


class Flow(_Running):
    """A TCP connection and a UDP exchange with an :class:`Echo`; a context manager.

    Both have been answered when the flow is there, and they go on until stopped.
    rate: messages a second, each with the marker.  Raises :class:`TrafficError` when there is no
    answer within `wait` seconds.
    """

    def __init__(
        self,
        qube: Qube,
        to: str,
        port: int,
        marker: bytes,
        rate: float = 100,
        wait: float = 2,
        protocols: Sequence[str] = ("tcp", "udp"),
    ) -> None:
        job = _exchange(to, port, marker, rate, wait, protocols)
        super().__init__(qube, _program("flow.py"), "flowing", job)

    def stop(self) -> dict[str, Exchange]:
        """Ends the flow, after a last wait for what is under way; the result by protocol."""
        return _exchanges(self._answer()[-1])


def works(
    client: Qube,
    to: str,
    port: int,
    marker: bytes,
    messages: int = 50,
    rate: float = 500,
    wait: float = 2,
) -> dict[str, Exchange]:
    """A real exchange over TCP and UDP with an :class:`Echo`; the result by protocol."""
    job = _exchange(to, port, marker, rate, wait, ("tcp", "udp"), messages)
    done = client.run(_program("flow.py"), input=json.dumps(job))
    return _exchanges(done.stdout.splitlines()[-1])


def _exchange(
    to: str,
    port: int,
    marker: bytes,
    rate: float,
    wait: float,
    protocols: Sequence[str],
    messages: int = 0,
) -> dict:
    given = {"to": to, "port": port, "marker": marker.hex(), "rate": rate, "wait": wait}
    return {**given, "protocols": list(protocols), "messages": messages}


def _exchanges(line: str) -> dict[str, Exchange]:
    return {name: Exchange(**result) for name, result in json.loads(line).items()}
