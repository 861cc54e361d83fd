# SPDX-License-Identifier: GPL-2.0-or-later
"""The updates proxy of a template: Debian's packages, and nothing else.

In Qubes a template has no netvm; 127.0.0.1:8082 in it leads by qrexec to a proxy in another qube
(qubes.UpdatesProxy).  Here it leads to this process, which fetches from
:data:`qubes_vpn_formula.lab.debian.MIRROR` and keeps it: a second time needs no network.
"""

import ctypes
import hashlib
import os
import socket
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from qubes_vpn_formula.lab import debian

PORT = 8082
_DEBIAN = "http://deb.debian.org/debian"
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_LIBC = ctypes.CDLL(None, use_errno=True)


class UpdatesProxy:
    """Listens at 127.0.0.1:8082 of the network of a process.  pid: that process."""

    def __init__(self, pid: int) -> None:
        self._server = _Server(("127.0.0.1", PORT), _Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = _listening(pid)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if not self.path.startswith(f"{_DEBIAN}/"):
            self.send_error(403, "The lab's updates proxy knows Debian only")
            return
        try:
            data = _fetched(debian.MIRROR + self.path.removeprefix(_DEBIAN))
        except urllib.error.HTTPError as error:
            self.send_error(error.code)
            return
        except OSError as error:
            self.send_error(504, str(error))
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """apt says what went wrong."""


def _fetched(url: str) -> bytes:
    """A file of the mirror.  Kept: a file's name has its version, and lists stay those of the root.

    Raises OSError.
    """
    folder = debian.cache() / "updates"
    folder.mkdir(exist_ok=True)
    kept = folder / hashlib.sha256(url.encode()).hexdigest()
    if not kept.exists():
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - the mirror
            data = answer.read()
        new = folder / f"{kept.name}.{os.getpid()}-{threading.get_ident()}"
        new.write_bytes(data)
        new.rename(kept)
    return kept.read_bytes()


def _listening(pid: int) -> socket.socket:
    """A socket in another network: a thread goes there, and only that one."""
    made: list[socket.socket] = []

    def make() -> None:
        with Path(f"/proc/{pid}/ns/net").open() as namespace:
            if _LIBC.setns(namespace.fileno(), _CLONE_NEWNET):
                return
        one = socket.socket()
        one.bind(("127.0.0.1", PORT))
        one.listen(16)
        made.append(one)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if not made:
        raise OSError(f"no socket in the network of process {pid}")
    return made[0]
