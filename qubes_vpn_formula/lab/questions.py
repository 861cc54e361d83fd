# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions to name servers from inside qubes, and the judge of what got out in clear."""

import ipaddress
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from qubes_vpn_formula.lab import packets
from qubes_vpn_formula.lab.capture import Captured, Frame
from qubes_vpn_formula.lab.oracle import Leak, Verdict
from qubes_vpn_formula.lab.packets import Packet, decode
from qubes_vpn_formula.lab.qube import Inside, Process

_PROGRAM = Path(__file__).with_name("inside") / "ask.py"
#: DNS and DNS over TLS, both ways: whoever answers on these was asked.  And names that neighbours
#: are asked for: NetBIOS, mDNS, LLMNR.
_PORTS = {53, 853, 137, 5353, 5355}


@dataclass(frozen=True)
class Question:
    """protocol: `udp`, `tcp`, or `tls` on port 853.  kind: 1 for A, 28 for AAAA.  wait: seconds."""

    server: str
    name: str
    protocol: str = "udp"
    kind: int = 1
    wait: float = 2.0


@dataclass(frozen=True)
class Answer:
    """addresses: what was answered.  code: DNS' response code; None without an answer.

    error: why there was none, by Python's name for it.  begun, ended: seconds since 1970.
    """

    code: int | None
    addresses: list[str]
    error: str
    begun: float
    ended: float


def ask(qube: Inside, *questions: Question) -> list[Answer]:
    """The answers to these questions, asked one after the other."""
    patience = sum(question.wait for question in questions) + 30
    done = qube.run(_command(0, 0), input=_plain(questions), timeout=patience)
    return [Answer(**json.loads(line)) for line in done.stdout.splitlines()]


class Asking:
    """A question that is asked again and again until somebody answers.

    every: seconds between two.  for_: seconds after which it gives up.
    """

    def __init__(self, qube: Inside, question: Question, every: float, for_: float) -> None:
        pipe = subprocess.PIPE
        command = _command(for_, every)
        self._process: Process = qube.popen(command, stdin=pipe, stdout=pipe, text=True)
        self._process.stdin.write(_plain([question]))
        self._process.stdin.close()

    def answer(self) -> Answer:
        """Waits for the first answer; that of the last question when there was none."""
        line = self._process.stdout.readline()
        self._process.wait()
        return Answer(**json.loads(line))


class Eavesdropper:
    """Whoever listens on a cable, and knows a word that is in every name that is asked for.

    Neither an address nor a protocol makes DNS harmless for it: what has a port of names at either
    end, in either direction of a flow, or carries the word, whatever its port, was seen in clear.

    but: the resolver that a provider has inside its tunnel, which a VPN qube itself asks there; of
    what goes to it the word alone counts.
    """

    def __init__(self, word: str, but: str | None = None) -> None:
        self._word = word.encode("ascii").lower()
        self._but = ipaddress.ip_address(but).packed if but else None

    def judge(self, captured: Captured) -> Verdict:
        """What it has seen."""
        start = captured.frames[0].time if captured.frames else 0.0
        leaks = []
        for frame in captured.frames:
            packet = decode(frame.data)
            if reason := self._reason(frame, packet):
                leaks.append(Leak(frame.time - start, packet, reason))
        return Verdict(tuple(leaks), len(captured.frames), captured.trouble)

    def _reason(self, frame: Frame, packet: Packet) -> str:
        """Why a frame is a leak; empty when it is none."""
        if self._word in frame.data.lower():
            return "a name in clear"
        if packet.protocol not in (packets.UDP, packets.TCP) or packet.destination == self._but:
            return ""
        ports = {packet.source_port, packet.destination_port} & _PORTS
        return f"port {min(ports)}" if ports else ""


def _plain(questions: Sequence[Question]) -> str:
    return json.dumps([asdict(question) for question in questions])


def _command(seconds: float, every: float) -> list[str]:
    return [sys.executable, "-I", str(_PROGRAM), str(seconds), str(every)]
