# SPDX-License-Identifier: GPL-2.0-or-later
"""An HTTP proxy that plays a vendor: it answers CONNECT itself, with TLS, from a folder.

usage: vendor.py ADDRESS:PORT CERTIFICATE FOLDER     (CERTIFICATE: a PEM file with its key)
Standard library only, because it runs in a lab's qube.  What was asked for goes to standard output.
"""

import socket
import ssl
import sys
import threading
from pathlib import Path


def main(listen, certificate, folder):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    host, _, port = listen.rpartition(":")
    with socket.create_server((host, int(port))) as server:
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            arguments = (connection, context, Path(folder))
            threading.Thread(target=_serve, args=arguments, daemon=True).start()


def _serve(connection, context, folder):
    try:
        asked = _head(connection)
        print(asked, flush=True)
        if not asked.startswith("CONNECT "):
            connection.sendall(b"HTTP/1.0 400 no\r\n\r\n")
            return
        connection.sendall(b"HTTP/1.0 200 connected\r\n\r\n")
        with context.wrap_socket(connection, server_side=True) as secure:
            while asked := _head(secure):
                _answer(secure, asked, folder)
    except OSError:
        pass
    finally:
        connection.close()


def _answer(connection, asked, folder):
    print(asked, flush=True)
    file = (folder / asked.split(" ")[1].lstrip("/")).resolve()
    known = file.is_relative_to(folder.resolve()) and file.is_file()
    data = file.read_bytes() if known else b""
    status = "200 here" if known else "404 unknown"
    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)


def _head(connection):
    """The first line of a request; empty at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return ""
        data += more
    return data.split(b"\r\n")[0].decode("latin-1")


if __name__ == "__main__":
    main(*sys.argv[1:])
