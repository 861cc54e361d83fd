# SPDX-License-Identifier: GPL-2.0-or-later
"""Properties of the machine and of qubes as Python attributes, and collections by name."""

from collections.abc import Callable, Iterator
from typing import Any

from . import exc

#: assigned to a property, resets it to its default
DEFAULT = object()

# A refused or vanished property is an AttributeError for the caller, so getattr(qube, name, None)
# hides it.
_NO_ACCESS = (exc.QubesDaemonNoResponseError, exc.QubesVMNotFoundError)


class PropertyHolder:
    """An object whose public attributes are Admin API properties, unless its class defines them.

    With `app.cache_enabled` all properties are read by one call at the first use, and stay as they
    were read until `clear_cache`: writing does not refresh them.
    """

    app: Any = None

    def __init__(self, app: Any, prefix: str, dest: str) -> None:
        self.app = app
        self._method_prefix = prefix
        self._method_dest = dest
        self._properties: list[str] | None = None
        self._properties_cache: dict[str, tuple[bool, Any]] = {}

    def clear_cache(self) -> None:
        """Forgets the properties that were read."""
        self._properties_cache = {}

    def qubesd_call(
        self, dest: str | None, method: str, arg: str | None = None, payload: bytes | None = None
    ) -> bytes:
        """Makes one Admin API call; `dest` None means this object."""
        return self.app.qubesd_call(dest or self._method_dest, method, arg, payload)

    def property_list(self) -> list[str]:
        """Names of all properties."""
        if self._properties is None:
            self._properties = self._property_call("List").decode("ascii").splitlines()
        return self._properties

    def property_is_default(self, name: str) -> bool:
        """Whether the property has its default value. AttributeError for an unknown one."""
        return self._property(name)[0]

    def property_get_default(self, name: str) -> Any:
        """The default value of a property, whatever it is set to.

        AttributeError when it has none.
        """
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            answer = self._property_call("GetDefault", name)
        except _NO_ACCESS:
            raise exc.QubesPropertyAccessError(name) from None
        if not answer:
            raise AttributeError(f"{name} has no default")
        return self._parse_value(*answer.decode().split(" ", 1))

    def __getattr__(self, name: str) -> Any:
        value = self._property(name)[1]
        if value is AttributeError:
            raise AttributeError(name)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if _is_local(type(self), name):
            super().__setattr__(name, value)
        elif value is DEFAULT:
            self.__delattr__(name)
        else:
            self._write("Set", name, ("" if value is None else str(value)).encode())

    def __delattr__(self, name: str) -> None:
        if _is_local(type(self), name):
            super().__delattr__(name)
        else:
            self._write("Reset", name)

    def _write(self, action: str, name: str, payload: bytes | None = None) -> None:
        try:
            self._property_call(action, name, payload)
        except _NO_ACCESS:
            raise exc.QubesPropertyAccessError(name) from None

    def _property_call(
        self, action: str, name: str | None = None, payload: bytes | None = None
    ) -> bytes:
        return self.qubesd_call(self._method_dest, self._method_prefix + action, name, payload)

    def _property(self, name: str) -> tuple[bool, Any]:
        """(is default, value).

        The value is the class AttributeError where an int or bool is unset.
        """
        if name.startswith("_"):
            raise AttributeError(name)
        if self.app.cache_enabled and not self._properties_cache:
            self._fetch_all()
        if name in self._properties_cache:
            return self._properties_cache[name]
        if self._properties is not None and name not in self._properties:
            raise AttributeError(name)
        try:
            answer = self._property_call("Get", name)
        except _NO_ACCESS:
            raise exc.QubesPropertyAccessError(name) from None
        found = self._parse_property(answer.decode())
        if self.app.cache_enabled:
            self._properties_cache[name] = found
        return found

    def _fetch_all(self) -> None:
        try:
            answer = self._property_call("GetAll").decode()
        except exc.QubesDaemonNoResponseError:
            return
        for line in answer.splitlines():
            name, rest = _unescape(line).split(" ", 1)
            self._properties_cache[name] = self._parse_property(rest)
        self._properties = list(self._properties_cache)

    def _parse_property(self, text: str) -> tuple[bool, Any]:
        default, kind, value = text.split(" ", 2)
        return default == "default=True", self._parse_value(kind, value)

    def _parse_value(self, kind: str, value: str) -> Any:
        kind = kind.removeprefix("type=")
        if kind == "str":
            return value
        if kind == "bool":
            return value == "True" if value else AttributeError
        if kind == "int":
            return int(value) if value else AttributeError
        if kind == "vm":
            return self.app.domains.get_blind(value) if value else None
        if kind == "label":
            return self.app.labels.get_blind(value) if value else None
        raise exc.QubesDaemonCommunicationError(f"unknown type of a property: {kind}")


def _is_local(cls: type, name: str) -> bool:
    return name.startswith("_") or hasattr(cls, name)


def _unescape(line: str) -> str:
    """A value of GetAll, where a newline is `\\n` and a backslash is doubled."""
    if "\\" not in line:
        return line  # nearly every one
    return "\\".join(part.replace("\\n", "\n") for part in line.split("\\\\"))


class NamedCollection:
    """Objects of one kind by name, from an Admin API method that lists the names."""

    def __init__(self, app: Any, list_method: str, make: Callable[[Any, str], Any]) -> None:
        self.app = app
        self._list_method = list_method
        self._make = make
        self._names: list[str] | None = None
        self._objects: dict[str, Any] = {}

    def clear_cache(self) -> None:
        """Forgets the names that were read."""
        self._names = None

    def get_blind(self, name: str) -> Any:
        """The object, without asking whether it exists."""
        if name not in self._objects:
            self._objects[name] = self._make(self.app, name)
        return self._objects[name]

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return self.get_blind(name)

    def __contains__(self, name: str) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> list[str]:
        """All names."""
        if self._names is None:
            self._names = (
                self.app.qubesd_call("dom0", self._list_method).decode("ascii").splitlines()
            )
        return list(self._names)

    def values(self) -> list[Any]:
        """All objects."""
        return [self.get_blind(name) for name in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        """All (name, object) pairs."""
        return list(zip(self.keys(), self.values(), strict=True))
