# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions to name servers from inside qubes, and the judge of what got out in clear."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from qubes_vpn_formula.lab import packets
from qubes_vpn_formula.lab.capture import Captured
from qubes_vpn_formula.lab.oracle import Leak, Verdict
from qubes_vpn_formula.lab.packets import decode
from qubes_vpn_formula.lab.qube import Inside, Process

_PROGRAM = Path(__file__).with_name("inside") / "ask.py"
#: DNS and DNS over TLS, both ways: whoever answers on these was asked.
_PORTS = {53, 853}


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

    Neither an address nor a protocol makes DNS harmless for it: what has port 53 or 853 at either
    end, in either direction of a flow, or carries the word, whatever its port, was seen in clear.
    """

    def __init__(self, word: str) -> None:
        self._word = word.encode("ascii").lower()

    def judge(self, captured: Captured) -> Verdict:
        """What it has seen."""
        start = captured.frames[0].time if captured.frames else 0.0
        leaks = []
        for frame in captured.frames:
            packet = decode(frame.data)
            ports = {packet.source_port, packet.destination_port} & _PORTS
            if packet.protocol in (packets.UDP, packets.TCP) and ports:
                leaks.append(Leak(frame.time - start, packet, f"port {min(ports)}"))
            elif self._word in frame.data.lower():
                leaks.append(Leak(frame.time - start, packet, "a name in clear"))
        return Verdict(tuple(leaks), len(captured.frames), captured.trouble)


def _plain(questions: Sequence[Question]) -> str:
    return json.dumps([asdict(question) for question in questions])


def _command(seconds: float, every: float) -> list[str]:
    return [sys.executable, "-I", str(_PROGRAM), str(seconds), str(every)]
