# SPDX-License-Identifier: GPL-2.0-or-later
"""A fake qubesd: the Admin API of Qubes OS R4.2 and R4.3 as a state machine, without Qubes.

Held to recorded answers of the real one (tests/contract). What it knowingly does otherwise is in
README.md beside this file.
"""

import json

from . import (  # noqa: F401  (each module registers its methods and reactions)
    devices,
    disposables,
    initial,
    labels,
    lifecycle,
    listing,
    network,
    pools,
    power,
    property_calls,
    roles,
    services,
    tags,
    templates,
    volume_calls,
)
from .errors import AdminError, EmptyAnswer
from .machine import Machine
from .method import perform, writes

__all__ = ["AdminError", "EmptyAnswer", "Qubesd"]


class Qubesd:
    """One machine.

    release: "4.2" or "4.3". state: an earlier `state`; the initial one when not given. It is
    JSON-able, and the order of its keys counts.
    """

    def __init__(self, release: str = "4.3", state: dict | None = None) -> None:
        self.release = release
        self.state = initial.state(release) if state is None else state
        self._machine = Machine.of(release, self.state)
        #: whether the last call changed the state; a call that fails may have changed it, too
        self.changed = False

    def call(self, dest: str, method: str, arg: str = "", payload: bytes = b"") -> bytes:
        """Make one Admin API call as dom0 and return its answer.

        Raises `AdminError` for an error answer and `EmptyAnswer` where qubesd says nothing at all.
        """
        before = json.dumps(self.state) if writes(method) else None
        self.changed = False
        try:
            return perform(self._machine, dest, method, arg, payload).encode()
        finally:
            self.changed = before is not None and json.dumps(self.state) != before

    def qubesdb(self, name: str) -> dict[str, str]:
        """What qubesd wrote into the QubesDB of the qube *name*; empty when it is off."""
        qube = self._machine.find(name)
        return dict(sorted(qube.data["qubesdb"].items())) if qube else {}
