# SPDX-License-Identifier: GPL-2.0-or-later
"""An embedded Qubes in memory: the same fake qubesd without files, for thousands of runs."""

from qubes_vpn_formula.embedded.qubesd.machine import Machine
from qubes_vpn_formula.embedded.qubesd.method import perform, writes


class MemoryQubes:
    """What `embedded.machine.EmbeddedQubes` is to the front, with a look at each write.

    looks: functions of a call's text, called after each call that may write.
    """

    def __init__(self, release, state):
        self.release = release
        self.state = state
        self.looks = []
        self._machine = Machine.of(release, state)
        self._read = {}  # answers since the last write

    def call(self, dest, method, arg="", payload=b""):
        if not writes(method):
            key = (dest, method, arg)
            if key not in self._read:
                self._read[key] = perform(self._machine, dest, method, arg, payload).encode()
            return self._read[key]
        try:
            return perform(self._machine, dest, method, arg, payload).encode()
        finally:
            self._read.clear()
            for look in self.looks:
                look(f"{dest} {method}+{arg} {payload.decode()}")
