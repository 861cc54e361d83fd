# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in for Tor: `tor.py gateway` in Whonix' gateway, `tor.py exit` in the internet.

As in Whonix, every connection of the gateway's clients is taken and goes on as Tor's own, nothing
else of theirs gets any further, and the world sees the exit.  Not as in Tor: there is one relay,
and nothing is encrypted; these tests are about who is seen by whom.
"""

import socket
import socketserver
import struct
import sys
import threading

from check_server import TOR

RELAY = ("198.51.100.90", 9001)
PORT = 9040
#: What Whonix' own firewall does with its clients.
RULES = f"""
table ip whonix {{
    chain taken {{
        type nat hook prerouting priority dstnat;
        iifgroup 2 meta l4proto tcp redirect to :{PORT}
    }}
    chain forwarded {{
        type filter hook forward priority -10;
        drop
    }}
}}
table ip6 whonix {{
    chain forwarded {{
        type filter hook forward priority -10;
        drop
    }}
}}
insert rule ip qubes custom-input iifgroup 2 tcp dport {PORT} accept
"""
#: linux/netfilter_ipv4.h
_ORIGINAL = 80


class Gateway(socketserver.BaseRequestHandler):
    """A client's connection, to wherever it was meant for."""

    def handle(self):
        meant = self.request.getsockopt(socket.SOL_IP, _ORIGINAL, 16)
        port, address = struct.unpack("!2xH4s8x", meant)
        with socket.create_connection(RELAY) as relay:
            relay.sendall(f"{socket.inet_ntoa(address)} {port}\n".encode())
            both_ways(self.request, relay)


class Exit(socketserver.StreamRequestHandler):
    """The last relay."""

    rbufsize = 0

    def handle(self):
        address, port = self.rfile.readline().decode().split()
        with socket.create_connection((address, int(port)), source_address=(TOR, 0)) as there:
            both_ways(self.request, there)


def both_ways(one, other):
    """Until either is done."""
    back = threading.Thread(target=_pass_on, args=(other, one), daemon=True)
    back.start()
    _pass_on(one, other)
    back.join()


def _pass_on(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


class Server(socketserver.ThreadingTCPServer):
    """Many at once."""

    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    role = {"gateway": (("", PORT), Gateway), "exit": (RELAY, Exit)}[sys.argv[1]]
    Server(*role).serve_forever()
