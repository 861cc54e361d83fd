# SPDX-License-Identifier: GPL-2.0-or-later
"""A client's conversation with the web server, packet by packet."""

import contextlib
import socket

from chain import CLIENT, FAMILY, MARKER, WEB, inside

_KIND = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}
_PORT = 9000
_SECONDS = 2  # for an answer


class Flow:
    """An established flow; a context manager.

    protocol: ``udp`` or ``tcp``.  version: of IP.  Raises OSError when there is no way through.
    """

    def __init__(self, protocol, version):
        self.protocol, self.version = protocol, version
        with contextlib.ExitStack() as made:
            self._server = made.enter_context(self._socket("web"))
            self._server.bind((WEB[version], _PORT))
            self._client = made.enter_context(self._socket("client"))
            self._client.bind((CLIENT[version], 0))
            if protocol == "tcp":
                self._server.listen()
            self._client.connect((WEB[version], _PORT))
            if protocol == "tcp":
                self._peer = made.enter_context(self._server.accept()[0])
                self._peer.settimeout(_SECONDS)
            self._made = made.pop_all()

    def _socket(self, name):
        with inside(name):
            made = socket.socket(FAMILY[self.version], _KIND[self.protocol])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.protocol == "tcp":
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.settimeout(_SECONDS)
        return made

    def talk(self, times):
        """Packets and their answers.  Raises OSError when one of them does not arrive."""
        for _ in range(times):
            self._client.send(MARKER)
            if self.protocol == "tcp":
                self._peer.send(self._peer.recv(2048))
            else:
                data, sender = self._server.recvfrom(2048)
                self._server.sendto(data, sender)
            self._client.recv(2048)

    def send(self, times):
        """Packets without waiting for anything."""
        for _ in range(times):
            # Told by ICMP that it is prohibited: the next one is tried all the same.
            with contextlib.suppress(OSError):
                self._client.send(MARKER)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._made.close()


def works(protocol, version):
    """Whether the client reaches the web server and hears from it."""
    try:
        with Flow(protocol, version) as flow:
            flow.talk(2)
    except OSError:
        return False
    return True


def everything(sender="client"):
    """What a qube may try: UDP, TCP, ICMP and DNS, both families, without waiting for anything."""
    for version, family in FAMILY.items():
        echo = b"\x08\0\xf7\xff" if version == 4 else b"\x80\0\0\0"
        protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
        with inside(sender):
            sockets = [
                (socket.socket(family, socket.SOCK_DGRAM), MARKER, _PORT),
                (socket.socket(family, socket.SOCK_DGRAM), MARKER, 53),
                (socket.socket(family, socket.SOCK_RAW, protocol), echo + bytes(4) + MARKER, 0),
            ]
            knocking = socket.socket(family, socket.SOCK_STREAM)
        knocking.setblocking(False)
        with contextlib.suppress(OSError):
            knocking.connect((WEB[version], 443))
        for made, data, port in sockets:
            with contextlib.suppress(OSError):
                made.sendto(data, (WEB[version], port))
        for made in (knocking, *(made for made, _, _ in sockets)):
            made.close()
