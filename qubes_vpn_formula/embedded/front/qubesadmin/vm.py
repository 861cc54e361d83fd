# SPDX-License-Identifier: GPL-2.0-or-later
"""Qubes."""

import logging
from collections.abc import Iterator
from typing import Any

from . import exc
from .base import PropertyHolder
from .features import Features
from .firewall import Firewall
from .storage import Volume
from .tags import Tags


class QubesVM(PropertyHolder):
    """One qube.

    Equal to another by name, and to its name. Attributes not named here are its properties.
    """

    features: Features | None = None
    firewall: Firewall | None = None
    log: logging.Logger | None = None
    tags: Tags | None = None

    def __init__(self, app: Any, name: str, klass: str | None, power_state: str | None) -> None:
        super().__init__(app, "admin.vm.property.", name)
        self._klass = klass
        self._power_state_cache = power_state
        self._volumes: dict[str, Volume] | None = None
        self.features = Features(self)
        self.firewall = Firewall(self)
        self.log = logging.getLogger(name)
        self.tags = Tags(self)

    @property
    def name(self) -> str:
        """The qube's name."""
        return self._method_dest

    @property
    def klass(self) -> str:
        """AppVM, TemplateVM, StandaloneVM, DispVM or AdminVM."""
        if self._klass is None:
            _, _, rest = self.qubesd_call(None, "admin.vm.List").decode().partition(" ")
            self._klass = dict(word.split("=", 1) for word in rest.split())["class"]
        return self._klass

    @property
    def volumes(self) -> dict[str, Volume]:
        """The qube's volumes by name."""
        if self._volumes is None:
            names = self.qubesd_call(None, "admin.vm.volume.List").decode().split()
            self._volumes = {name: Volume(self.app, self.name, name) for name in names}
        return self._volumes

    @property
    def connected_vms(self) -> Iterator["QubesVM"]:
        """The qubes whose netvm this is; asks every qube of the machine."""
        return (vm for vm in self.app.domains if getattr(vm, "netvm", None) == self)

    def start(self) -> None:
        """Starts the qube, and what it needs."""
        self.qubesd_call(None, "admin.vm.Start")

    def shutdown(self, force: bool = False, wait: bool = False) -> None:
        """Asks the qube to halt.

        force: also when others use it as netvm. wait (4.3): returns when it has halted.
        """
        words = ["force"] * force + ["wait"] * wait
        self.qubesd_call(None, "admin.vm.Shutdown", "+".join(words) or None)

    def kill(self) -> None:
        """Stops the qube at once."""
        self.qubesd_call(None, "admin.vm.Kill")

    def pause(self) -> None:
        """Freezes the qube."""
        self.qubesd_call(None, "admin.vm.Pause")

    def unpause(self) -> None:
        """Ends a pause."""
        self.qubesd_call(None, "admin.vm.Unpause")

    def get_power_state(self) -> str:
        """Halted, Transient, Running, Paused and so on; NA when qubesd does not tell.

        With `app.cache_enabled` it stays what it was first; `clear_cache` does not refresh it.
        """
        if self._power_state_cache is not None:
            return self._power_state_cache
        try:
            answer = self.qubesd_call(None, "admin.vm.CurrentState").decode()
        except (exc.QubesDaemonNoResponseError, exc.QubesVMNotFoundError):
            return "NA"
        state = dict(word.split("=", 1) for word in answer.split())["power_state"]
        if self.app.cache_enabled:
            self._power_state_cache = state
        return state

    def is_halted(self) -> bool:
        """Whether the qube is off."""
        return self.get_power_state() == "Halted"

    def is_paused(self) -> bool:
        """Whether the qube is frozen."""
        return self.get_power_state() == "Paused"

    def is_running(self) -> bool:
        """Whether the qube is on; a paused or starting one is."""
        return self.get_power_state() not in ("Halted", "NA")

    def is_networked(self) -> bool:
        """Whether the qube provides network or has a netvm."""
        return self.provides_network or self.netvm is not None

    def run_service(self, service: str, **options: Any) -> Any:
        """Starts a qrexec service in the qube; see `Qubes.run_service`."""
        return self.app.run_service(self.name, service, **options)

    def get_notes(self) -> str:
        """The qube's notes (4.3)."""
        return self.qubesd_call(None, "admin.vm.notes.Get").decode()

    def set_notes(self, notes: str) -> None:
        """Replaces the qube's notes (4.3)."""
        self.qubesd_call(None, "admin.vm.notes.Set", payload=str(notes).encode())

    def __str__(self) -> str:
        return self.name

    def __lt__(self, other: object) -> bool:
        return self.name < other.name if isinstance(other, QubesVM) else NotImplemented

    def __eq__(self, other: object) -> bool:
        return self.name == str(other) if isinstance(other, (QubesVM, str)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.name)
