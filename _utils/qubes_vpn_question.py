# SPDX-License-Identifier: GPL-2.0-or-later
"""A real DNS question, to learn whether a resolver answers (RFC 1035).

It asks for the names of the root's servers: every resolver can tell, and the question tells
nobody anything.
"""

import os
import select
import socket
import struct
import time

#: When an address that is silent is asked again: seconds from the beginning.  Soon at first: what
#: a VPN server gets in a connection's first moment it may lose.
_AGAIN = (0, 0.1, 0.3, 0.6, 1, 2)
#: Seconds for which the others are waited for when one has answered.
_OTHERS = 0.3
_PORT, _NAME_SERVERS, _INTERNET = 53, 2, 1
_QUESTION = b"\0" + struct.pack("!HH", _NAME_SERVERS, _INTERNET)
_RECURSION_DESIRED = 0x0100
#: Of an answer's flags: that it is one; that it was cut off; the kind of question and its code,
#: both 0 if all is well.
_RESPONSE, _TRUNCATED, _WRONG = 0x8000, 0x0200, 0x780F


def ask(devices, seconds=3.0, wake=()):
    """Those of the addresses in *devices* that answer, in their order.

    devices: ``{address: name of the device by which it is asked}``, an empty name for any; a
    device needs root.  seconds: how long at most.  wake: file descriptors; when one can be read,
    the asking ends.
    """
    asked = {address: _Asked(address, device) for address, device in devices.items()}
    begin = time.monotonic()
    until = begin + seconds
    times = [begin + after for after in _AGAIN]
    try:
        while silent := [one for one in asked.values() if not one.answered]:
            now = time.monotonic()
            if now >= until:
                break
            if times and now >= times[0]:
                times.pop(0)
                for one in silent:
                    one.send()
            rest = min([until, *times[:1]]) - now
            ready, _, _ = select.select([*silent, *wake], [], [], max(rest, 0))
            if any(one in wake for one in ready):
                break
            if any(one.receive() for one in ready):  # the others in the next turn
                until = min(until, time.monotonic() + _OTHERS)
    finally:
        for one in asked.values():
            one.socket.close()
    return [address for address, one in asked.items() if one.answered]


class _Asked:
    """One address.  Whatever cannot be sent or received is no answer."""

    def __init__(self, address, device):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.answered = False
        self._address, self._device, self._number = address, device, os.urandom(2)

    def fileno(self):
        return self.socket.fileno()

    def send(self):
        try:
            if self._device:
                option = socket.SO_BINDTODEVICE
                self.socket.setsockopt(socket.SOL_SOCKET, option, self._device.encode())
            # From nobody else is anything taken then.
            self.socket.connect((self._address, _PORT))
            self.socket.send(message(self._number))
        except OSError:
            return

    def receive(self):
        """Whether that was the answer."""
        try:
            data = self.socket.recv(65535)
        except OSError:
            return False
        self.answered = is_answer(data, self._number)
        return self.answered


def message(number, question=_QUESTION):
    """The bytes that ask *question*, under this *number* (two bytes)."""
    return number + struct.pack("!HHHHH", _RECURSION_DESIRED, 1, 0, 0, 0) + question


def is_answer(data, number, full=False):
    """Whether the bytes *data* answer the question of this *number* (two bytes).

    full: an answer that holds nothing is none.
    """
    if data[:2] != number or data[12 : 12 + len(_QUESTION)] != _QUESTION:
        return False
    flags, questions, records = struct.unpack("!HHH", data[2:8])
    if full and not records and not flags & _TRUNCATED:
        return False
    return bool(flags & _RESPONSE) and not flags & _WRONG and questions == 1
