# SPDX-License-Identifier: GPL-2.0-or-later
"""Sends back what it gets: `echo.py ADDRESS PORT`, over TCP and UDP, until SIGTERM.

Says `listening` when it does, and at the end how many datagrams and connections have reached it.
"""

import selectors
import signal
import socket
import sys


class Echo:
    """Both servers."""

    def __init__(self, address, port):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.reached = 0
        self.waiting = selectors.DefaultSelector()
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        datagrams.bind((address, port))
        self.waiting.register(datagrams, selectors.EVENT_READ, self.datagram)
        listener = socket.create_server((address, port), family=family)
        self.waiting.register(listener, selectors.EVENT_READ, self.accept)

    def serve(self):
        """Answers whatever comes next."""
        for key, _ in self.waiting.select():
            key.data(key.fileobj)

    def datagram(self, ready):
        """Sends one back."""
        try:
            data, client = ready.recvfrom(65536)
            self.reached += 1
            ready.sendto(data, client)
        except OSError:  # no way back, for now
            pass

    def accept(self, ready):
        """A new connection."""
        self.reached += 1
        self.waiting.register(ready.accept()[0], selectors.EVENT_READ, self.stream)

    def stream(self, ready):
        """Sends a connection's next bytes back."""
        try:
            data = ready.recv(65536)
            ready.sendall(data)
        except OSError:  # the client has gone
            data = b""
        if not data:
            self.waiting.unregister(ready)
            ready.close()


def main():
    """Serves until SIGTERM."""
    echo = Echo(sys.argv[1], int(sys.argv[2]))

    def end(*_):
        print(echo.reached, flush=True)
        sys.exit()

    signal.signal(signal.SIGTERM, end)
    print("listening", flush=True)
    while True:
        echo.serve()


if __name__ == "__main__":
    main()
