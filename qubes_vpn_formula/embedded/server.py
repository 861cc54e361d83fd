# SPDX-License-Identifier: GPL-2.0-or-later
"""Serves an embedded Qubes over the Admin API's wire protocol, as qubesd does in dom0.

    python -m qubes_vpn_formula.embedded.server SOCKET --state FILE [--release 4.2]

A client sends `METHOD+ARG SOURCE name DESTINATION NUL PAYLOAD` and closes its sending side. It
gets `0 NUL ANSWER`, or `2 NUL CLASS NUL TRACEBACK NUL MESSAGE NUL`, or nothing. To `admin.Events`
it gets a stream of `1 NUL SUBJECT NUL EVENT NUL (KEY NUL VALUE NUL)* NUL`, until it leaves. Source:
qubes/api/__init__.py of qubes-core-admin 4.3.50. The source of a call has to be dom0.
"""

import argparse
import contextlib
import os
import select
import signal
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from qubes_vpn_formula.embedded.differences import Event, events
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.embedded.qubesd import AdminError, EmptyAnswer

_CHUNK = 65536
#: seconds between two looks for events
_LOOK = 0.05


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """One thread a connection. OSError when another server listens on `path`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, path: str | os.PathLike, machine: EmbeddedQubes) -> None:
        self.machine = machine
        self._bound = False
        _remove_stale(Path(path))
        super().__init__(os.fspath(path), _Connection)

    def server_bind(self) -> None:
        """Takes the address."""
        super().server_bind()
        self._bound = True

    def server_close(self) -> None:
        """Stops listening and removes the socket, unless it is another server's."""
        super().server_close()
        if self._bound:
            Path(self.server_address).unlink(missing_ok=True)


class _Connection(socketserver.BaseRequestHandler):
    server: Server
    request: socket.socket

    def handle(self) -> None:
        # The client may be gone before it has its answer; it may even have been killed by a fault.
        with contextlib.suppress(EmptyAnswer, BrokenPipeError, ConnectionResetError):
            dest, method, arg, payload = _parse(self._read())
            if method == "admin.Events":
                self._stream(dest)
            else:
                self.request.sendall(self._answer(dest, method, arg, payload))

    def _read(self) -> bytes:
        """The request; of one that is too long for qubesd, only so much that this can be seen.

        The rest is taken in and forgotten, because hanging up on unread data breaks the pipe.
        """
        request = b""
        while chunk := self.request.recv(_CHUNK):
            if len(request) <= _CHUNK:
                request += chunk
        return request

    def _answer(self, dest: str, method: str, arg: str, payload: bytes) -> bytes:
        try:
            return b"0\0" + self.server.machine.call(dest, method, arg, payload, self._client())
        except AdminError as error:
            return f"2\0{error.error}\0\0{error.message}\0".encode()

    def _client(self) -> int:
        """Process id of the client."""
        size = struct.calcsize("3i")
        credentials = self.request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return struct.unpack("3i", credentials)[0]

    def _stream(self, dest: str) -> None:
        """Events of the qube `dest`, or of everything when it is dom0."""
        machine = self.server.machine
        seen = machine.snapshot()
        self._send(Event("", "connection-established", {}))
        gone = select.poll()
        gone.register(self.request, 0)
        while not gone.poll(_LOOK * 1000):
            now = machine.snapshot()
            for event in events(seen, now):
                if dest in ("dom0", event.subject):
                    self._send(event)
            seen = now

    def _send(self, event: Event) -> None:
        fields = [word for field in event.fields.items() for word in field]
        words = ["1", event.subject, event.name, *fields, ""]
        self.request.sendall("".join(f"{word}\0" for word in words).encode())


def _parse(request: bytes) -> tuple[str, str, str, bytes]:
    """(destination, method, argument, payload). EmptyAnswer when it is no request."""
    head, end, payload = request.partition(b"\0")
    words = head.decode("ascii", "replace").rsplit(" ", 3)
    if not end or len(words) != 4:
        raise EmptyAnswer
    call, source, kind, dest = words
    if (kind, dest) == ("keyword", "adminvm"):
        kind, dest = "name", "dom0"
    if kind != "name" or source != "dom0":
        raise EmptyAnswer
    method, _, arg = call.partition("+")
    return dest, method, arg, payload


def _remove_stale(path: Path) -> None:
    """Removes the socket that a killed server left behind."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(ConnectionRefusedError):
        probe.connect(os.fspath(path))
        return
    path.unlink()


@contextlib.contextmanager
def serving(path: str | os.PathLike, machine: EmbeddedQubes) -> Iterator[Server]:
    """Serves `machine` on the socket `path` by a thread of this process."""
    with Server(path, machine) as server:
        threading.Thread(target=server.serve_forever, args=(_LOOK,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def main() -> None:
    """The command line; runs until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="Serve an embedded Qubes on a unix socket.")
    parser.add_argument("socket", help="path of the unix socket to listen on")
    parser.add_argument("--state", required=True, help="state file; made when it is absent")
    parser.add_argument("--release", choices=("4.2", "4.3"), help="release of a new state file")
    options = parser.parse_args()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with Server(options.socket, EmbeddedQubes(options.state, options.release)) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
