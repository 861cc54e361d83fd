# SPDX-License-Identifier: GPL-2.0-or-later
"""What leaves a qube, captured at the far end of its cable by tcpdump.

A capture that sees nothing proves something only if it could have seen it.  So a control frame (an
ARP probe with a number used once) leaves the qube before and after everything else and must be
found in the capture, and the kernel must have dropped nothing; otherwise the capture says what its
trouble is.
"""

import contextlib
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scapy.error import Scapy_Exception
from scapy.utils import RawPcapReader

from qubes_vpn_formula.lab.closing import Closing
from qubes_vpn_formula.lab.packets import IPV4, IPV6
from qubes_vpn_formula.lab.qube import SLOWNESS, Qube
from qubes_vpn_formula.lab.traffic import Job, send

#: Bytes kept of a frame; more than any MTU here, less than the 64 KiB that segmentation offload
#: makes of it.
_SNAP = 2048
#: The kernel's buffer, KiB: 32,000 frames that tcpdump has not read yet.
_BUFFER = 65536
_PATIENCE = 5.0 * SLOWNESS  # seconds for tcpdump to start or end, and for a control frame to arrive
_ARRIVAL = 0.1 * SLOWNESS  # seconds after which another control frame is sent
_POLL = 0.005  # seconds between two looks at a file that grows
_RAW = 101  # a pcap file's link type, of IP packets without anything before them
_DROPPED = re.compile(r"^(\d+) packets? dropped by (\w+)", re.MULTILINE)


class CaptureError(Exception):
    """tcpdump did not start."""


@dataclass(frozen=True)
class Frame:
    """An Ethernet frame.  time: seconds since 1970.  data: its first bytes, up to 2,048.

    What a device without Ethernet carries, such as OpenVPN's, has an empty header in front.
    """

    time: float
    data: bytes


@dataclass(frozen=True)
class Captured:
    """All that was seen.  trouble: why something may be missing; empty when nothing is."""

    frames: tuple[Frame, ...]
    trouble: str = ""

    def marked(self, marker: bytes) -> list[Frame]:
        """The frames that carry a marker: what has arrived of what the lab's senders sent."""
        return [frame for frame in self.frames if marker in frame.data]


class Capture(Closing):
    """A running capture; a context manager.

    near: the qube that is watched.  far: the one at the other end of the cable, with its `device`.
    file: the pcap file to write.  proven: whether to send the control frame at the start as well,
    which needs the cable plugged in.

    Only what arrives at `device` is kept, and there is nobody at the cable's other end but `near`,
    so a made-up MAC address hides nothing.  Raises :class:`CaptureError`.
    """

    def __init__(
        self, near: Qube, far: Qube, device: str, file: Path, *, proven: bool = True
    ) -> None:
        self._near, self._file = near, file
        self._trouble = ""
        words = f"tcpdump -i {device} -Q in -n -p -U --immediate-mode -Z root -w -".split()
        words += ["-s", str(_SNAP), "-B", str(_BUFFER)]
        with file.open("wb") as output:  # ours: the qube's own file system ends with it
            self._process = far.popen(words, stdout=output, stderr=subprocess.PIPE, text=True)
        said = self._process.stderr.readline()
        while said and "listening on" not in said:
            said = self._process.stderr.readline()
        if not said:
            raise CaptureError(f"{far.name}: no capture on {device}: exit {self._process.wait()}")
        if proven:
            self._prove("at the start")

    def finish(self, *, proven: bool = True) -> Captured:
        """Ends the capture.

        proven: whether the control frame must come through at the end; False only for a cable that
        was pulled on purpose, and then whoever pulled it answers for the time after.
        """
        if proven:
            self._prove("at the end")
        self._end()
        try:
            return Captured(tuple(read(self._file)), self._trouble)
        except (Scapy_Exception, EOFError) as error:
            return Captured((), f"the capture cannot be read: {error}")

    def _prove(self, when: str) -> None:
        """Sends a control frame until it is seen: the kernel may lose one in a flood."""
        number = secrets.token_bytes(12)
        position = self._file.stat().st_size
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            send(self._near, control(number))
            if self._appears(control(number).data[0], position):
                return
        self._note(f"the control frame was not seen {when}")

    def _appears(self, probe: bytes, position: int) -> bool:
        """Whether a control frame arrives within a moment, beyond `position` bytes of the file."""
        until = time.monotonic() + _ARRIVAL
        while time.monotonic() < until:
            with self._file.open("rb") as written:
                written.seek(position)
                if probe in written.read():
                    return True
            time.sleep(_POLL)
        return False

    def _end(self) -> None:
        """Stops tcpdump and reads what it says about losses."""
        self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        self._process.kill()
        said = self._process.stderr.read()
        self._process.stderr.close()
        losses = _DROPPED.findall(said)
        if not losses:
            self._note(f"tcpdump ended without its counters: {said.strip()}")
        for number, by in losses:
            if int(number):
                self._note(f"{number} frames dropped by {by}")

    def _note(self, trouble: str) -> None:
        self._trouble = f"{self._trouble}; {trouble}" if self._trouble else trouble

    def close(self) -> None:
        """End it, if nobody has."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def control(number: bytes) -> Job:
    """An ARP probe with 12 bytes of `number`, which every killswitch lets pass and no host answers
    (RFC 5227).

    It leaves by each Ethernet device, because attacks rename the uplink.
    """
    probe = bytes.fromhex("0001 0800 06 04 0001")  # Ethernet, IPv4, a request
    probe += number[:6] + bytes(4) + number[6:] + bytes(4)
    return Job("link", [probe], to="ff" * 6, protocol=0x0806)


def read(file: Path) -> Iterator[Frame]:
    """The frames of a pcap file.  Raises scapy's `Scapy_Exception` or EOFError when it is none."""
    with RawPcapReader(str(file)) as reader:
        for data, about in reader:
            frame = _framed(data) if reader.linktype == _RAW else data
            yield Frame(about.sec + about.usec / (1e9 if reader.nano else 1e6), frame)


def _framed(packet: bytes) -> bytes:
    ethertype = IPV6 if packet[0] >> 4 == 6 else IPV4
    return bytes(12) + ethertype.to_bytes(2) + packet
