# SPDX-License-Identifier: GPL-2.0-or-later
"""A provider's check: tells everyone his address, and whether that is one of its tunnels'.

And the Tor project's, by its own words: whether it is that of the lab's exit (`tor.py`).
"""

import http.server
import json
import socket

TUNNELS = ("10.64.", "fd64:")
TOR = "203.0.113.99"


class Check(http.server.BaseHTTPRequestHandler):
    """Answers every page alike."""

    def do_GET(self):
        address = self.client_address[0].removeprefix("::ffff:")
        told = {"ip": address, "exit": address.startswith(TUNNELS)}
        told |= {"IP": address, "IsTor": address == TOR}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    """Both families."""

    address_family = socket.AF_INET6


if __name__ == "__main__":
    Server(("::", 80), Check).serve_forever()
