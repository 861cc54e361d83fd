# SPDX-License-Identifier: GPL-2.0-or-later
"""What netfilter's inet hooks never see: packet sockets, a DHCP client's among them."""

import contextlib
import socket
import struct

import chain
import formula
from chain import MARKER, VPN, WEB, inside

_BROADCAST = b"\xff" * 6
_QDISC_BYPASS = 20  # PACKET_QDISC_BYPASS, linux/if_packet.h
_PACKET = 263  # SOL_PACKET


def scenarios():
    """Each sender, against the gate and without anything."""
    for name, sender in SENDERS.items():
        yield f"gate/{name}", _tried, sender


def _tried(sender):
    chain.reset()
    without = chain.captured(sender)
    formula.boot()
    return {"frames": chain.captured(sender), "frames_without": without}


def _packet():
    """A UDP packet to the web server, with the marker."""
    datagram = struct.pack("!HHHH", 4000, 9000, 8 + len(MARKER), 0) + MARKER
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0)
    source, to = (socket.inet_pton(socket.AF_INET, names[4]) for names in (VPN, WEB))
    return header + source + to + datagram


def _raw(frame, bypass=False):
    with inside("vpn"), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as made:
        made.setsockopt(_PACKET, _QDISC_BYPASS, int(bypass))
        made.bind((socket.if_indextoname(chain.UPLINK), 0))
        for _ in range(5):
            with contextlib.suppress(OSError):  # the gate may say so
                made.send(frame)


def _ethernet(kind, payload):
    return _BROADCAST + b"\x02" + bytes(5) + kind + payload


def _dhcp():
    options = "-n -q -t 2 -T 1 -A 1"
    script = ["-s", "/usr/bin/true"]
    chain.run("vpn", "udhcpc", "-i", "eth0", *options.split(), *script, check=False)


SENDERS = {
    "packet socket": lambda: _raw(_ethernet(b"\x08\0", _packet())),
    "packet socket past the queue": lambda: _raw(_ethernet(b"\x08\0", _packet()), bypass=True),
    "VLAN": lambda: _raw(_ethernet(b"\x81\0", b"\0\x07\x08\0" + _packet())),
    "unknown Ethernet type": lambda: _raw(_ethernet(b"\x88\xb5", MARKER)),
    "DHCP client": _dhcp,
}
