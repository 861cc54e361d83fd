# SPDX-License-Identifier: GPL-2.0-or-later
"""Tells which datagrams have reached a program.

Arguments: its address and port.  Standard output: `ready`, and at the end of standard input each
datagram as a frame in hex, a line each, with made-up headers.
"""

import ipaddress
import socket
import sys


def main(address, port):
    """Listens until standard input ends."""
    six = ":" in address
    server = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, port))
    server.setblocking(False)
    print("ready", flush=True)
    sys.stdin.read()
    while True:
        try:
            data, (sender, source_port, *_) = server.recvfrom(65536)
        except BlockingIOError:
            return
        print(_frame(sender, source_port, address, port, data).hex())


def _frame(sender, source_port, address, port, data):
    ends = ipaddress.ip_address(sender).packed + ipaddress.ip_address(address).packed
    length = (8 + len(data)).to_bytes(2)
    datagram = source_port.to_bytes(2) + port.to_bytes(2) + length + bytes(2) + data
    if ":" in address:
        return bytes(12) + b"\x86\xdd" + b"\x60" + bytes(5) + b"\x11\x40" + ends + datagram
    return bytes(12) + b"\x08\x00" + b"\x45" + bytes(7) + b"\x40\x11" + bytes(2) + ends + datagram


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
