# SPDX-License-Identifier: GPL-2.0-or-later
"""Tags of a qube. Nothing is cached."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any


class Tags:
    """The set of a qube's tags."""

    def __init__(self, vm: Any) -> None:
        self.vm = vm

    def add(self, tag: str) -> None:
        """Adds a tag; also when it is there."""
        self.vm.qubesd_call(None, "admin.vm.tag.Set", tag)

    def remove(self, tag: str) -> None:
        """Removes a tag. QubesTagNotFoundError when it is not there."""
        self.vm.qubesd_call(None, "admin.vm.tag.Remove", tag)

    def discard(self, tag: str) -> None:
        """Removes a tag if it is there."""
        with contextlib.suppress(KeyError):
            self.remove(tag)

    def update(self, *others: Iterable[str]) -> None:
        """Adds all tags of the iterables."""
        for other in others:
            for tag in other:
                self.add(tag)

    def __iter__(self) -> Iterator[str]:
        return iter(self.vm.qubesd_call(None, "admin.vm.tag.List").decode().splitlines())

    def __contains__(self, tag: str) -> bool:
        return self.vm.qubesd_call(None, "admin.vm.tag.Get", tag) == b"1"
