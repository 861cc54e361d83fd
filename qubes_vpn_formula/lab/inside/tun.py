# SPDX-License-Identifier: GPL-2.0-or-later
"""The far end of a tunnel that carries nothing anywhere: what is sent into it is told.

Argument: the device's name.  Standard output: `ready`, then each packet in hex, a line each.
Standard input: packets in hex, a line each, that come out of the tunnel.
"""

import fcntl
import os
import select
import struct
import sys

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
_MOST = 65536


def main(name):
    """Goes on until standard input ends."""
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([tun, sys.stdin], [], [])
        if tun in ready:
            print(os.read(tun, _MOST).hex(), flush=True)
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                return
            os.write(tun, bytes.fromhex(line))


if __name__ == "__main__":
    main(sys.argv[1])
