# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices: the machine has none, so every list is empty; and which kinds a qube may not get (R4.3).

Assigning and attaching are not modelled, and get no answer.
"""

from . import properties
from .errors import Missing, enforce, value_error
from .machine import LOCAL
from .method import method
from .names import ascii_text

_CLASSES = ("block", "pci")


def _named(verb: str) -> tuple[str, ...]:
    return tuple(f"admin.vm.device.{klass}.{verb}" for klass in _CLASSES)


@method(*_named("Available"))
def _available(request):
    return ""


@method(*_named("Assigned"), *_named("Attached"), only="4.3")
@method(*_named("List"), only="4.2")
def _used(request):
    if request.arg and request.dest.klass != "RemoteVM":
        enforce("+" in request.arg)
    return ""


def _codes(text: str) -> list[str]:
    if len(text) % 7:
        raise value_error("device interfaces are seven characters each")
    codes = [text[start : start + 7] for start in range(0, len(text), 7)]
    if len(set(codes)) != len(codes):
        raise value_error("repeated device interface")
    return codes


def _denied(request) -> list[str]:
    if request.dest.klass not in LOCAL:
        raise Missing("devices of " + request.dest.name)
    return _codes(request.dest.get("devices_denied"))


def _deny(request, codes: list[str]) -> None:
    prop = properties.find(request.dest, "devices_denied")
    properties.assign(request.dest, prop, "".join(codes))


@method("admin.vm.device.denied.List", no_arg=True, only="4.3")
def _list_denied(request):
    return "\n".join(_denied(request))


@method("admin.vm.device.denied.Add", payload=True, writes=True, only="4.3")
def _add_denied(request):
    new = _codes(ascii_text(request.payload))
    _deny(request, _denied(request) + new)


@method("admin.vm.device.denied.Remove", payload=True, writes=True, only="4.3")
def _remove_denied(request):
    denied = _denied(request)
    text = ascii_text(request.payload)
    gone = denied if text == "all" else _codes(text)
    left = [code for code in denied if code not in gone]
    if left != denied:
        _deny(request, left)
