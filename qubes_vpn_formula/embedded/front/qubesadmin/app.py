# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine, and its collection of qubes."""

import contextlib
import logging
import os
import subprocess
from collections.abc import Iterable, Iterator
from typing import Any

from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.embedded.qubesd import AdminError, EmptyAnswer

from . import exc
from .base import DEFAULT, NamedCollection, PropertyHolder
from .clone import clone
from .label import Label
from .vm import QubesVM


class VMCollection:
    """All qubes by name.

    The list is read once and kept until `clear_cache`, or a qube is made or removed here.
    """

    def __init__(self, app: "Qubes") -> None:
        self.app = app
        self._vm_list: dict[str, dict[str, str]] | None = None
        self._vm_objects: dict[str, QubesVM] = {}

    def clear_cache(self) -> None:
        """Forgets the list; what the qubes' objects have cached they keep."""
        self._vm_list = None

    def refresh_cache(self, force: bool = False) -> None:
        """Reads the list, if it is not there yet or `force` is given."""
        if self._vm_list is not None and not force:
            return
        self._vm_list = {}
        for line in self.app.qubesd_call("dom0", "admin.vm.List").decode("ascii").splitlines():
            name, *words = line.split(" ")
            self._vm_list[name] = dict(word.split("=", 1) for word in words)
        for name, vm in list(self._vm_objects.items()):
            if name not in self._vm_list or vm.klass != self._vm_list[name]["class"]:
                del self._vm_objects[name]

    def get_blind(self, name: str) -> QubesVM:
        """The qube's object, without asking whether it exists."""
        if name not in self._vm_objects:
            listed = (self._vm_list or {}).get(name, {})
            # The power state of the list is used only where it may be kept.
            power_state = listed.get("state") if self.app.cache_enabled else None
            self._vm_objects[name] = QubesVM(self.app, name, listed.get("class"), power_state)
        return self._vm_objects[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The qube, or `default` when there is none of that name."""
        return self[name] if name in self else default  # noqa: SIM401 (this is that get)

    def keys(self) -> Iterable[str]:
        """All names."""
        self.refresh_cache()
        return self._vm_list.keys()

    def values(self) -> list[QubesVM]:
        """All qubes."""
        return [self[name] for name in self.keys()]

    def __getitem__(self, name: str | QubesVM) -> QubesVM:
        if name not in self:
            raise KeyError(str(name))
        return self.get_blind(str(name))

    def __delitem__(self, name: str) -> None:
        self.app.qubesd_call(name, "admin.vm.Remove")
        self.clear_cache()

    def __contains__(self, name: str | QubesVM) -> bool:
        return str(name) in self.keys()

    def __iter__(self) -> Iterator[QubesVM]:
        for name in sorted(self.keys()):
            yield self[name]


class Qubes(PropertyHolder):
    """The machine. Attributes not named here are its global properties."""

    #: reads all properties of an object at once, and keeps them
    cache_enabled = False
    domains: VMCollection | None = None
    labels: NamedCollection | None = None
    log: logging.Logger | None = None
    #: how the real one reaches qubesd in dom0
    qubesd_connection_type = "socket"

    def __init__(self) -> None:
        path = os.environ.get("QUBES_VPN_EMBEDDED")
        if not path:
            raise exc.QubesDaemonCommunicationError(
                "QUBES_VPN_EMBEDDED is not set: it has to name the state file of an embedded Qubes"
            )
        super().__init__(self, "admin.property.", "dom0")
        self._machine = EmbeddedQubes(path)
        self._is_4_2 = self._machine.release == "4.2"
        self.domains = VMCollection(self)
        self.labels = NamedCollection(self, "admin.label.List", Label)
        self.log = logging.getLogger("app")

    def qubesd_call(
        self, dest: str, method: str, arg: str | None = None, payload: bytes | None = None
    ) -> bytes:
        """Makes one Admin API call. Raises the error of `exc` that qubesd's answer names."""
        try:
            return self._machine.call(dest, method, arg or "", payload or b"")
        except EmptyAnswer:
            raise exc.QubesDaemonAccessError("qubesd gave an empty answer") from None
        except AdminError as error:
            raise getattr(exc, error.error, exc.QubesException)(error.message) from None

    def run_service(
        self,
        dest: str,
        service: str,
        user: str | None = None,
        *,
        autostart: bool = True,
        **options: Any,
    ) -> subprocess.Popen:
        """Starts a qrexec service in a qube; options are Popen's, and its pipes the service's.

        What stands for qrexec-client, which is no part of qubesadmin either, is the program that
        the environment variable QUBES_VPN_QREXEC names: it gets the qube, the service and the user.
        Without one there is nothing in any qube, and the call ends with 125.
        """
        if autostart:
            with contextlib.suppress(exc.QubesVMNotHaltedError):
                self.qubesd_call(dest, "admin.vm.Start")
        elif not self.domains.get_blind(dest).is_running():
            raise exc.QubesVMNotRunningError("%s is not running", dest)
        for stream in ("stdin", "stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        program = os.environ.get("QUBES_VPN_QREXEC")
        words = [program, dest, service, user or "DEFAULT"] if program else ["sh", "-c", "exit 125"]
        return subprocess.Popen(words, **options)

    def get_label(self, label: str | int) -> Label:
        """The label of that name or number. QubesLabelNotFoundError when there is none."""
        if label in self.labels:
            return self.labels[label]
        if str(label).isdigit():
            for found in self.labels.values():
                if found.index == int(label):
                    return found
        raise exc.QubesLabelNotFoundError(str(label))

    def list_vmclass(self) -> list[str]:
        """The classes that qubes can have."""
        return sorted(self.qubesd_call("dom0", "admin.vmclass.List").decode().splitlines())

    def list_deviceclass(self) -> list[str]:
        """The classes that devices can have."""
        return sorted(self.qubesd_call("dom0", "admin.deviceclass.List").decode().splitlines())

    def add_new_vm(self, cls: str, name: str, label: str, template: Any = None) -> QubesVM:
        """Makes a qube; `template` None or DEFAULT takes the machine's default template."""
        if " " in name:
            raise ValueError(f"a qube's name with a space: {name}")
        return self._create(
            cls, None if template in (None, DEFAULT) else str(template), name, label, {}
        )

    def clone_vm(
        self, src_vm: str | QubesVM, new_name: str, new_cls: str | None = None, **options: Any
    ) -> QubesVM:
        """Makes a copy of a qube, see `clone`."""
        src_vm = self.domains[src_vm] if isinstance(src_vm, str) else src_vm
        return clone(self, src_vm, new_name, new_cls or src_vm.klass, **options)

    def _create(
        self, cls: str, template: str | None, name: str, label: Any, pools: dict[str, str]
    ) -> QubesVM:
        words = [
            f"name={name}",
            f"label={label}",
            *(f"pool:{volume}={pool}" for volume, pool in pools.items()),
        ]
        method = f"admin.vm.{'CreateInPool' if pools else 'Create'}.{cls}"
        self.qubesd_call("dom0", method, template, " ".join(words).encode())
        self.domains.clear_cache()
        return self.domains[name]
