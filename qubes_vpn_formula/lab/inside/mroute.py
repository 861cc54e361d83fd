# SPDX-License-Identifier: GPL-2.0-or-later
"""Routes multicast from one device to another: `mroute.py FROM TO GROUP SOURCE`, until it is ended.

Says `routing` when it does.  Needs a kernel with IP_MROUTE.
"""

import signal
import socket
import struct
import sys

_INIT, _ADD_VIF, _ADD_MFC = 200, 202, 204  # linux/mroute.h
_BY_INDEX, _MOST_VIFS = 8, 32


def main():
    """Two virtual interfaces and one route."""
    incoming, outgoing, group, source = sys.argv[1:]
    router = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
    router.setsockopt(socket.IPPROTO_IP, _INIT, 1)
    for number, device in enumerate((incoming, outgoing)):
        index = socket.if_nametoindex(device)
        link = struct.pack("=HBBIi4x", number, _BY_INDEX, 1, 0, index)
        router.setsockopt(socket.IPPROTO_IP, _ADD_VIF, link)
    thresholds = bytes([0, 1]).ljust(_MOST_VIFS, b"\0")  # 0: not out of it
    addresses = socket.inet_aton(source) + socket.inet_aton(group)
    route = addresses + struct.pack("=H", 0) + thresholds + bytes(18)
    router.setsockopt(socket.IPPROTO_IP, _ADD_MFC, route)
    print("routing", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
