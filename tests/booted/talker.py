# SPDX-License-Identifier: GPL-2.0-or-later
"""Somebody in a qube who talks all the time, so that what can get out does."""


def program(marker: bytes, address: str, port: int = 443, every: float = 0.005) -> str:
    """The text of a Python program that sends the marker to a UDP port of an address.

    every: seconds between two.
    """
    return f"""import socket, time
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        one.sendto({marker!r}, ("{address}", {port}))
    except OSError:
        pass
    time.sleep({every})
"""
