# SPDX-License-Identifier: GPL-2.0-or-later
"""Somebody in a qube who talks all the time, so that what can get out does."""


def program(marker: bytes, address: str) -> str:
    """The text of a Python program that sends the marker to UDP port 443 of an address."""
    return f"""import socket, time
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        one.sendto({marker!r}, ("{address}", 443))
    except OSError:
        pass
    time.sleep(0.005)
"""
