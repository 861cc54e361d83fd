# SPDX-License-Identifier: GPL-2.0-or-later
"""Volumes of a qube. Nothing is cached: each attribute asks for the volume's information anew."""

from typing import Any


class Volume:
    """One volume (`root`, `private`, `volatile`, `kernel`) of a qube. Sizes are bytes."""

    pool = property(lambda self: self._info()["pool"])
    vid = property(lambda self: self._info()["vid"])
    size = property(lambda self: int(self._info()["size"]))
    usage = property(lambda self: int(self._info()["usage"]))
    rw = property(lambda self: self._info()["rw"] == "True")
    snap_on_start = property(lambda self: self._info()["snap_on_start"] == "True")
    save_on_stop = property(lambda self: self._info()["save_on_stop"] == "True")

    def __init__(self, app: Any, vm: str, name: str) -> None:
        self.app = app
        self.name = name
        self._vm = vm

    def clone(self, source: "Volume") -> None:
        """Replaces this volume's content by that of another qube's volume."""
        token = source._call("CloneFrom")
        self._call("CloneTo", token)

    def __lt__(self, other: object) -> bool:
        return (
            (self._vm, self.name) < (other._vm, other.name)
            if isinstance(other, Volume)
            else NotImplemented
        )

    def _call(self, action: str, payload: bytes | None = None) -> bytes:
        return self.app.qubesd_call(self._vm, f"admin.vm.volume.{action}", self.name, payload)

    def _info(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self._call("Info").decode().splitlines())
