# SPDX-License-Identifier: GPL-2.0-or-later
"""What a cell looks at while it is attacked, and what each says in the end."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.capture import Capture, Captured, Frame
from qubes_vpn_formula.lab.oracle import Endpoint, Oracle
from qubes_vpn_formula.lab.packets import decode
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.traffic import Echo, new_marker, send
from qubes_vpn_formula.lab.tunnels import Tunnel

#: ICMPv6 types that a kernel sends when an interface comes up: multicast listener reports, router
#: solicitations.
_CHATTER = (131, 132, 133, 143)


@dataclass(frozen=True)
class Phases:
    """The phases of an attack: names and begins, in seconds since 1970.

    Each has a marker that begins with `prefix`, so that a frame tells its own phase however late
    it comes.
    """

    prefix: bytes = field(default_factory=new_marker)
    names: list[str] = field(default_factory=list)
    begins: list[float] = field(default_factory=list)

    def begin(self, name: str) -> bytes:
        """Starts a phase; returns its marker."""
        self.names.append(name)
        self.begins.append(time.time())
        return self.prefix + b"-%03d" % (len(self.names) - 1)

    def marks(self, frame: Frame) -> bool:
        """Whether it carries the marker of a phase."""
        return self.prefix in frame.data

    def of(self, frame: Frame) -> str | None:
        """The phase of a frame, by its marker; of one without, by its time; None before all."""
        at = frame.data.find(self.prefix + b"-") + len(self.prefix) + 1
        if at > len(self.prefix) and frame.data[at : at + 3].isdigit():
            return self.names[int(frame.data[at : at + 3])]
        begun = sum(1 for begin in self.begins if begin <= frame.time)
        return self.names[begun - 1] if begun else None


@dataclass(frozen=True)
class Said:
    """What one piece of evidence says.

    lines: one for each frame or message that got where it must not, in words.
    aside: the same, before the attack's first phase, and what the kernel says by itself.
    frames: how many were judged.  trouble: why it proves nothing; empty when it does.
    """

    lines: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    frames: int = 0
    trouble: str = ""


class Uplink:
    """All that leaves a VPN qube by its uplink (OUT).

    device: the uplink, which is still down.  far, far_device: the other end of its cable.
    allowed: the endpoints, until :meth:`allow` says others.
    """

    def __init__(
        self, vpn: Qube, device: str, far: Qube, far_device: str, file: Path, *allowed: Endpoint
    ) -> None:
        self.vpn, self.file = vpn, file
        self._allowed = [(0.0, allowed)]
        self._left_out: list[tuple[float, float]] = []
        self._captured: Captured | None = None
        with _up_in_silence(vpn, device):
            self._capture = Capture(vpn, far, far_device, file)

    def allow(self, endpoints: Iterable[Endpoint]) -> None:
        """From now on these are the endpoints."""
        self._allowed.append((time.time(), tuple(endpoints)))

    def leave_out(self, begin: float, end: float) -> None:
        """What leaves between two times is not judged."""
        self._left_out.append((begin, end))

    def end(self) -> None:
        """Ends the capture: the device is about to go."""
        if not self._captured:
            self._captured = self._capture.finish()

    def say(self, phases: Phases) -> Said:
        """Ends the capture and judges it."""
        self.end()
        lines: list[str] = []
        aside: list[str] = []
        ends = [begin for begin, _ in self._allowed[1:]] + [float("inf")]
        judged = [
            one
            for one in self._captured.frames
            if not any(begin <= one.time < end for begin, end in self._left_out)
        ]
        for (begin, endpoints), end in zip(self._allowed, ends, strict=True):
            frames = tuple(one for one in judged if begin <= one.time < end)
            verdict = Oracle(endpoints, phases.prefix).judge(Captured(frames))
            by_time = {frame.time - frames[0].time: frame for frame in frames}
            for leak in verdict.leaks:
                phase = phases.of(by_time[leak.time])
                line = f"{self.vpn.name}'s uplink: {leak.packet}: {leak.reason}"
                chatter = leak.packet.kind in _CHATTER and not phases.marks(by_time[leak.time])
                counted = phase and not chatter
                (lines if counted else aside).append(f"{phase or 'before the attack'}: {line}")
        frames = len(self._captured.frames)
        return Said(tuple(lines), tuple(aside), frames, self._captured.trouble)


class Link:
    """What `near` sends to a device of `far`: one of these markers there is a finding (IN).

    markers: without, all of the attack's.
    """

    def __init__(
        self, near: Qube, far: Qube, device: str, file: Path, markers: Sequence[bytes] = ()
    ) -> None:
        self.file, self._markers = file, markers
        self._place = f"{far.name}'s {device}"
        self._capture = Capture(near, far, device, file)

    def say(self, phases: Phases) -> Said:
        """Ends the capture and looks for markers."""
        captured = self._capture.finish()
        lines = [
            f"{phases.of(frame)}: arrived at {self._place}: {decode(frame.data)}"
            for marker in self._markers or (phases.prefix,)
            for frame in captured.marked(marker)
        ]
        return Said(tuple(lines), (), len(captured.frames), captured.trouble)


class Exit:
    """What comes out of a tunnel, at its server: one of these markers there is a finding (IN).

    The tunnel must be up: a packet of the VPN qube's own goes through it first, and must be seen.
    """

    def __init__(
        self, vpn: Qube, internet: Qube, tunnel: Tunnel, file: Path, markers: Sequence[bytes]
    ) -> None:
        self.file = file
        self._place = f"the end of {vpn.name}'s tunnel"
        self._markers, self._control = markers, new_marker()
        self._capture = Capture(vpn, internet, server_device(tunnel), file, proven=False)
        send(vpn, senders.udp(tunnel.inner[0], 9, self._control))

    def say(self, phases: Phases) -> Said:
        """Ends the capture and looks for the markers."""
        captured = self._capture.finish(proven=False)
        lines = [
            f"{phases.of(frame)}: out of {self._place}: {decode(frame.data)}"
            for marker in self._markers
            for frame in captured.marked(marker)
        ]
        trouble = captured.trouble
        if not captured.marked(self._control):
            trouble = f"{trouble} the control packet did not come out of the tunnel".lstrip()
        return Said(tuple(lines), (), len(captured.frames), trouble)


class Program:
    """A program that nothing must reach, over UDP and TCP (IN)."""

    file = None

    def __init__(self, qube: Qube, address: str, port: int) -> None:
        self._place = f"{qube.name}, {address} port {port}"
        self._echo = Echo(qube, address, port)

    def say(self, phases: Phases) -> Said:
        """Ends the program; it counts what has reached it."""
        reached = self._echo.stop()
        last = phases.names[-1] if phases.names else "before the attack"
        return Said((f"{last}: a program was reached: {self._place}",) * reached)


def server_device(tunnel: Tunnel) -> str:
    """The interface at a tunnel's server, where what it carries comes out."""
    return f"{'wgs' if tunnel.kind.program == 'wireguard' else 'ovs'}{tunnel.number}"


@contextmanager
def _up_in_silence(qube: Qube, device: str) -> Iterator[None]:
    """A device that is down is up for a moment, for a control frame, and nobody else uses it."""
    silence = f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6"
    qube.run(f"echo 1 >{silence}; ip link set {device} up")
    yield
    qube.run(f"ip link set {device} down; echo 0 >{silence}")
