# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine as objects: thin views on the JSON-able state."""

import time
import uuid
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from . import properties
from .errors import AdminError, Missing
from .releases import RELEASES, Release

#: classes with disks, power and network
QUBES = frozenset({"AppVM", "DispVM", "StandaloneVM", "TemplateVM"})
#: classes that may be a template for disposables
DISPOSABLE_TEMPLATES = frozenset({"AppVM", "StandaloneVM"})
#: feature of a disposable template: its preloaded disposables (R4.3)
PRELOADED = "preload-dispvm"
#: classes that live on this machine
LOCAL = QUBES | {"AdminVM"}


class Holder:
    """Something with properties: a qube, or the machine for the global ones."""

    klass: str
    name: str
    machine: "Machine"
    stored: dict  # explicit property values
    seen: Mapping = MappingProxyType({})  # defaults as a real machine had them, see `copied`

    def get(self, name: str):
        """Value of a property, qubes by name; `Missing` without a value and a default."""
        return properties.get(self, name)

    def get_or(self, name: str, default=None):
        """As `get`, with *default* for a property that is missing or does not exist."""
        try:
            return self.get(name)
        except Missing:
            return default

    def is_default(self, name: str) -> bool:
        return name not in self.stored


class Qube(Holder):
    """One qube of the machine, dom0 included."""

    def __init__(self, machine: "Machine", name: str):
        self.machine = machine
        self.name = name
        self.data = machine.state["qubes"][name]
        self.klass = self.data["klass"]
        self.stored = self.data["properties"]
        self.seen = self.data.get("seen", {})
        self.features = self.data["features"]
        self.tags = self.data["tags"]
        self.volumes = self.data["volumes"]

    def __eq__(self, other):
        return isinstance(other, Qube) and other.name == self.name

    def __hash__(self):
        return hash(self.name)

    def __str__(self):
        return self.name

    @property
    def power(self) -> str:
        return self.data["power"]

    @property
    def running(self) -> bool:
        """Started, be it paused."""
        return self.power != "Halted"

    @property
    def paused(self) -> bool:
        return self.power == "Paused"

    @property
    def preloaded(self) -> bool:
        """A disposable that waits to be used."""
        return self.klass == "DispVM" and self.name in self.template.preloads()

    def preloads(self) -> list[str]:
        """Names of the preloaded disposables of this template."""
        known = self.machine.release.preload
        return self.features.get(PRELOADED, "").split() if known else []

    @property
    def template(self) -> "Qube | None":
        return self.machine.find(self.get_or("template"))

    @property
    def netvm(self) -> "Qube | None":
        return self.machine.find(self.get("netvm"))

    @property
    def has_netvm(self) -> bool:
        """Whether this class has a netvm property at all."""
        return self.klass in QUBES

    def clients(self) -> Iterator["Qube"]:
        """Qubes whose netvm this is, by name."""
        for qube in self.machine.qubes():
            if qube.get_or("netvm") == self.name:
                yield qube

    def disposables(self) -> Iterator["Qube"]:
        """Qubes based on this one."""
        for qube in self.machine.qubes():
            if qube.get_or("template") == self.name:
                yield qube

    def feature(self, name: str, *, through: str = "template", default=None):
        """A feature of this qube or, when unset, along its templates (or netvms)."""
        qube = self
        while qube is not None:
            if name in qube.features:
                return qube.features[name]
            qube = self.machine.find(qube.get_or(through))
        return default


class Machine(Holder):
    """The whole machine; also holds the global properties."""

    klass = "global"
    name = "Qubes"

    def __init__(self, release: Release, state: dict):
        self.machine = self
        self.release = release
        self.state = state
        self.stored = state["globals"]

    @classmethod
    def of(cls, version: str, state: dict) -> "Machine":
        return cls(RELEASES[version], state)

    def qubes(self) -> list[Qube]:
        """All qubes: dom0, then by name."""
        names = sorted(self.state["qubes"], key=lambda name: (name != "dom0", name))
        return [Qube(self, name) for name in names]

    def find(self, name: str | None) -> Qube | None:
        return Qube(self, name) if name in self.state["qubes"] else None

    def qube(self, name: str) -> Qube:
        """The qube called *name*; `QubesVMNotFoundError` when there is none."""
        qube = self.find(name)
        if qube is None:
            raise AdminError("QubesVMNotFoundError", f"no such qube: {name!r}")
        return qube

    def serial(self) -> int:
        """A number never given before, the source of everything that is random in reality."""
        self.state["serial"] += 1
        return self.state["serial"]

    def new_uuid(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"qube {self.serial()}"))

    def now(self) -> float:
        """Time, in seconds since the epoch."""
        return time.time()
