# SPDX-License-Identifier: GPL-2.0-or-later
"""Gives packets to the kernel and says what it took.

Standard input: a JSON list of jobs, the fields of traffic.Job with bytes as hex.  Standard output:
one JSON object for each job, `{"sent": 3, "errors": {"EPERM": 1}}`.  A job with a rate goes on
until SIGTERM.
"""

import collections
import errno
import fcntl
import itertools
import json
import signal
import socket
import struct
import sys
import time

_SIOCGIFHWADDR, _ETHERNET = 0x8927, 1  # linux/sockios.h, linux/if_arp.h
_BURST = 0.002  # seconds between two bursts of a flood


class Sender:
    """One job, and what became of it so far."""

    def __init__(self, job):
        self.job = job
        self.sent, self.errors = 0, collections.Counter()
        self.stream = job["socket"] in ("tcp", "fastopen")
        self.socket = None

    def send(self, data):
        """One packet, or one connection, to each destination of the job."""
        for where in self.destinations():
            try:
                if self.socket is None or self.stream:
                    self.open()
                self.hand_over(bytes.fromhex(data), where)
                self.sent += 1
            except OSError as error:
                name = "TIMEOUT" if isinstance(error, TimeoutError) else None
                self.errors[name or errno.errorcode.get(error.errno, str(error))] += 1

    def open(self):
        """A socket with the job's options, bound to its source."""
        job, kind = self.job, self.job["socket"]
        if self.socket:
            self.socket.close()
        family = socket.AF_INET6 if ":" in job["to"] else socket.AF_INET
        self.socket = {
            "tcp": lambda: socket.socket(family, socket.SOCK_STREAM),
            "fastopen": lambda: socket.socket(family, socket.SOCK_STREAM),
            "udp": lambda: socket.socket(family, socket.SOCK_DGRAM),
            "raw": lambda: socket.socket(family, socket.SOCK_RAW, job["protocol"]),
            "header": lambda: socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW),
            "link": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0),
            "frame": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0),
        }[kind]()
        if self.stream:
            self.socket.settimeout(job["wait"])
        for level, option, value in job["options"]:
            plain = isinstance(value, int)
            self.socket.setsockopt(level, option, value if plain else bytes.fromhex(value))
        if kind in ("link", "frame"):
            return
        if job["device"]:
            self.socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_BINDTODEVICE, job["device"].encode()
            )
        if job["source"]:
            self.socket.bind(tuple(job["source"]))

    def destinations(self):
        """Addresses as the job's kind of socket takes them."""
        job = self.job
        if job["socket"] in ("link", "frame"):
            devices = [job["device"]] if job["device"] else _ethernet_devices()
            address = (0, 0, bytes.fromhex(job["to"])) if job["socket"] == "link" else ()
            return [(device, job["protocol"], *address) for device in devices]
        if ":" not in job["to"]:
            return [(job["to"], job["port"])]
        scope = socket.if_nametoindex(job["device"]) if job["device"] else 0
        return [(job["to"], job["port"], 0, scope)]

    def hand_over(self, data, where):
        """Gives the packet to the kernel.  Raises OSError when it takes none."""
        if self.job["socket"] == "tcp":
            self.socket.connect(where)
            self.socket.sendall(data)
        elif self.job["socket"] == "fastopen":
            self.socket.sendto(data, socket.MSG_FASTOPEN, where)
        else:
            self.socket.sendto(data, where)

    def flood(self, stopped):
        """Sends at the job's rate until `stopped` is not empty."""
        data, begin = itertools.cycle(self.job["data"]), time.monotonic()
        done = 0
        while not stopped:
            for _ in range(int((time.monotonic() - begin) * self.job["rate"]) - done):
                self.send(next(data))
                done += 1
                if stopped:
                    return
            time.sleep(_BURST)


def _ethernet_devices():
    """All Ethernet devices of this qube that are up, whatever they are called by now."""
    with socket.socket() as probe:
        for _, name in socket.if_nameindex():
            asked = struct.pack("40s", name.encode())
            kind = struct.unpack_from("H", fcntl.ioctl(probe, _SIOCGIFHWADDR, asked), 16)[0]
            if kind == _ETHERNET:
                yield name


def main():
    """Does the jobs, one after the other."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    for job in json.load(sys.stdin):
        sender = Sender(job)
        if job["rate"]:
            print("flooding", flush=True)
            sender.flood(stopped)
        for data in job["data"] * job["count"]:
            sender.send(data)
        print(json.dumps({"sent": sender.sent, "errors": sender.errors}), flush=True)


if __name__ == "__main__":
    main()
