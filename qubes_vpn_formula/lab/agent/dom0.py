# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0's side of a qube's QubesDB."""

from pathlib import Path

from qubes_vpn_formula.lab.agent.shims.python.qubesdb import QubesDB
from qubes_vpn_formula.lab.qube import Qube

_FIREWALL = "/qubes-firewall/"


class Dom0:
    """Keeps the database of a running qube as `Qube.qubesdb` says; the qube's own keys stay."""

    def __init__(self, qube: Qube) -> None:
        self.database = QubesDB(Path(f"/proc/{qube.pid}/root", "run", "qubesdb"))
        self._wanted = qube.qubesdb
        self._told: dict[str, str] = {}

    def tell(self) -> None:
        """Write what has changed: of a client's rules all lines, then its bare address.

        The last is the sign to load them (core-admin writes in this order).
        """
        gone = self._told.keys() - self._wanted.keys()
        new = dict(self._wanted.items() - self._told.items())
        self._told = dict(self._wanted)
        for key in gone:
            self.database.rm(key)
        for key, value in new.items():
            self.database.write(key, value)
        rules = {key for key in gone | new.keys() if key.startswith(_FIREWALL)}
        for address in sorted({key.split("/")[2] for key in rules}):
            self.database.write(_FIREWALL + address, "")
