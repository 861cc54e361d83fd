# SPDX-License-Identifier: GPL-2.0-or-later
"""Features of a qube, which services are too (`service.NAME`). Nothing is cached."""

from collections.abc import Iterator
from typing import Any


class Features:
    """A qube's features by name; values are text, True and False are written as `1` and empty.

    `in` and `items` ask for the list, and `items` then once more for each feature.
    """

    #: as `default`, makes a missing feature an error
    NO_DEFAULT = object()

    def __init__(self, vm: Any) -> None:
        self.vm = vm

    def __getitem__(self, name: str) -> str:
        return self.vm.qubesd_call(None, "admin.vm.feature.Get", name).decode()

    def __setitem__(self, name: str, value: Any) -> None:
        if isinstance(value, bool):
            value = "1" if value else ""
        self.vm.qubesd_call(None, "admin.vm.feature.Set", name, str(value).encode())

    def __delitem__(self, name: str) -> None:
        self.vm.qubesd_call(None, "admin.vm.feature.Remove", name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.vm.qubesd_call(None, "admin.vm.feature.List").decode().splitlines())

    keys = __iter__

    def items(self) -> Iterator[tuple[str, str]]:
        """(name, value) pairs."""
        for name in self:
            yield name, self[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The feature's value, or `default` when it is not set."""
        return self._or_default(default, "admin.vm.feature.Get", name)

    def check_with_template(self, name: str, default: Any = None) -> Any:
        """The feature's value here, or else in the qube's template, or else `default`."""
        return self._or_default(default, "admin.vm.feature.CheckWithTemplate", name)

    def _or_default(self, default: Any, method: str, name: str) -> Any:
        try:
            return self.vm.qubesd_call(None, method, name).decode()
        except KeyError:
            if default is self.NO_DEFAULT:
                raise
            return default
