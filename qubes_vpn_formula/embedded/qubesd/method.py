# SPDX-License-Identifier: GPL-2.0-or-later
"""The Admin API's methods: a table that the other modules fill, and the way a request takes to one.

Source: qubes/api/__init__.py and qubes/api/admin.py of qubes-core-admin.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from .errors import AdminError, EmptyAnswer, enforce
from .machine import Machine, Qube
from .names import ascii_text, check_qube_name

#: bytes of one request, header included
_LIMIT = 65536
_UUID = re.compile(r"uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Request:
    """One call, addressed: *dest* exists, *arg* is ASCII."""

    machine: Machine
    dest: Qube
    method: str
    arg: str
    payload: bytes


@dataclass(frozen=True)
class Method:
    name: str
    handler: Callable[[Request], str | None]
    payload: bool  # whether it takes one; else a payload is a protocol violation
    dom0: bool  # whether it is addressed to dom0 only
    no_arg: bool  # whether an argument is a protocol violation
    writes: bool  # whether it can change the machine
    only: str | None  # the one release that has it


_methods: dict[str, Method] = {}


def method(
    *names: str,
    payload: bool = False,
    dom0: bool = False,
    no_arg: bool = False,
    writes: bool = False,
    only: str | None = None,
):
    """Register a handler under *names*; see `Method` for the rest."""

    def register(handler):
        for name in names:
            _methods[name] = Method(name, handler, payload, dom0, no_arg, writes, only)
        return handler

    return register


def writes(name: str) -> bool:
    """Whether the method *name* can change the machine."""
    return name in _methods and _methods[name].writes


def perform(machine: Machine, dest: str, name: str, arg: str, payload: bytes) -> str:
    """Answer one call; raises `AdminError` or `EmptyAnswer`."""
    request = _address(machine, *_frame(dest, name, arg, payload))
    found = _methods.get(request.method)
    if found is None or found.only not in (None, machine.release.version):
        raise EmptyAnswer
    enforce(found.payload or not request.payload)
    enforce(not found.dom0 or request.dest.name == "dom0")
    enforce(not found.no_arg or not request.arg)
    return found.handler(request) or ""


def _frame(dest: str, name: str, arg: str, payload: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """The call as the daemon reads it off the wire: spaces in an argument break the header."""
    header = f"{name}+{arg} dom0 name {dest}".encode()
    enforce(len(header) + 1 + len(payload) <= _LIMIT)
    header, payload = (header + b"\0" + payload).split(b"\0", 1)
    parts = header.split(b" ", 3)
    enforce(len(parts) == 4 and parts[1:3] == [b"dom0", b"name"])
    call, argument = parts[0].split(b"+", 1)
    return parts[3], call, argument, payload


def _address(machine: Machine, dest: bytes, name: bytes, arg: bytes, payload: bytes) -> Request:
    qube = _destination(machine, ascii_text(dest))
    return Request(machine, qube, ascii_text(name), ascii_text(arg), payload)


def _destination(machine: Machine, dest: str) -> Qube:
    if machine.release.strict_destination:
        if dest.startswith("uuid:"):
            return _by_uuid(machine, dest)
        check_qube_name(machine.release, dest)
    return machine.qube(dest)


def _by_uuid(machine: Machine, dest: str) -> Qube:
    if not _UUID.fullmatch(dest):
        raise AdminError("QubesVMInvalidUUIDError", f"not a valid UUID: {dest!r}")
    for qube in machine.qubes():
        if qube.get("uuid") == dest.removeprefix("uuid:"):
            return qube
    raise AdminError("QubesVMNotFoundError", f"no such qube: {dest!r}")
