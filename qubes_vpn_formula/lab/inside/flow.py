# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps one TCP connection and one UDP exchange with echo.py going.

Standard input: JSON with to, port, protocols, rate (messages a second), messages (0: until
SIGTERM), wait (seconds for the connection, and at the end for what is still under way), marker
(hex).
Standard output: `flowing` when each protocol has been answered once (else, without a number of
messages, it ends), at the end
`{"udp": {"sent": 9, "received": 9, "errors": {}, "gap": 0.1}, ...}`; gap: the longest time in
seconds without an answer.
"""

import collections
import errno
import json
import select
import signal
import socket
import struct
import sys
import time

_NUMBER = struct.Struct("!Q")


class Exchange:
    """One protocol's messages and answers."""

    def __init__(self, protocol, job):
        self.stream = protocol == "tcp"
        self.rest = bytes.fromhex(job["marker"])
        self.size = _NUMBER.size + len(self.rest)
        self.sent, self.seen, self.errors = 0, set(), collections.Counter()
        self.gap, self.last = 0.0, time.monotonic()
        self.unsent, self.unread = b"", b""
        family = socket.AF_INET6 if ":" in job["to"] else socket.AF_INET
        kind = socket.SOCK_STREAM if self.stream else socket.SOCK_DGRAM
        self.socket = socket.socket(family, kind)
        self.socket.settimeout(job["wait"])
        try:
            self.socket.connect((job["to"], job["port"]))
            if self.stream:
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            self.failed(error)
        self.socket.setblocking(False)

    def failed(self, error):
        """Counts an error by its name."""
        name = "TIMEOUT" if isinstance(error, TimeoutError) else errno.errorcode.get(error.errno)
        self.errors[name or str(error)] += 1

    def send(self):
        """The next message.  TCP's goes when there is room for it."""
        try:
            if not self.stream:
                self.socket.send(_NUMBER.pack(self.sent) + self.rest)
                self.sent += 1
                return
            if not self.unsent:
                self.unsent = _NUMBER.pack(self.sent) + self.rest
                self.sent += 1
            self.unsent = self.unsent[self.socket.send(self.unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self.failed(error)

    def receive(self):
        """All answers that are there."""
        try:
            while data := self.socket.recv(65536):
                self.unread += data
                while len(self.unread) >= self.size:
                    self.seen.add(self.unread[: _NUMBER.size])
                    self.unread = self.unread[self.size :]
                now = time.monotonic()
                self.gap, self.last = max(self.gap, now - self.last), now
        except BlockingIOError:
            pass
        except OSError as error:
            self.failed(error)

    def result(self):
        """What became of it, a last silence included."""
        gap = max(self.gap, time.monotonic() - self.last) if self.missing() else self.gap
        errors = dict(self.errors)
        return {"sent": self.sent, "received": len(self.seen), "errors": errors, "gap": gap}

    def missing(self):
        """How many messages have no answer."""
        return self.sent - len(self.seen)


def main():
    """Runs the exchanges."""
    job, stopped, announced = json.load(sys.stdin), [], False
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    exchanges = {name: Exchange(name, job) for name in job["protocols"]}
    pause, due = 1 / job["rate"], time.monotonic()
    left, patience = job["messages"] or float("inf"), time.monotonic() + job["wait"]
    while left > 0 and not stopped:
        for exchange in exchanges.values():
            exchange.send()
        left, due = left - 1, due + pause
        listen(exchanges.values(), due)
        if not announced and all(exchange.seen for exchange in exchanges.values()):
            print("flowing", flush=True)
            announced = True
        if not announced and not job["messages"] and time.monotonic() > patience:
            break
    until = time.monotonic() + job["wait"]
    listen(exchanges.values(), until, enough=lambda all_: not any(e.missing() for e in all_))
    print(json.dumps({name: exchange.result() for name, exchange in exchanges.items()}))


def listen(exchanges, until, enough=lambda _: False):
    """Takes answers until the time has come, or it is enough."""
    sockets = {exchange.socket: exchange for exchange in exchanges}
    while not enough(exchanges) and (left := until - time.monotonic()) > 0:
        for ready in select.select(sockets, [], [], left)[0]:
            sockets[ready].receive()


if __name__ == "__main__":
    main()
