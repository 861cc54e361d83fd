# SPDX-License-Identifier: GPL-2.0-or-later
"""admin.property.* and admin.vm.property.*"""

from . import properties
from .errors import Missing
from .method import method
from .property_values import describe, show, wire_kind


def _both(verb: str, **how):
    """Register a handler for qubes and for the global properties."""

    def register(handler):
        method(f"admin.vm.property.{verb}", **how)(lambda r: handler(r, r.dest))
        method(f"admin.property.{verb}", dom0=True, **how)(lambda r: handler(r, r.machine))
        return handler

    return register


@_both("List", no_arg=True)
def _list(request, holder):
    return "".join(f"{name}\n" for name in properties.table(holder))


@_both("Get")
def _get(request, holder):
    return describe(holder, properties.find(holder, request.arg))


@_both("GetAll", no_arg=True)
def _get_all(request, holder):
    lines = (
        f"{name} " + describe(holder, prop).replace("\\", "\\\\").replace("\n", "\\n")
        for name, prop in properties.table(holder).items()
    )
    return "".join(line + "\n" for line in lines)


@_both("GetDefault")
def _get_default(request, holder):
    prop = properties.find(holder, request.arg)
    try:
        return f"type={wire_kind(prop)} {show(properties.default(holder, prop))}"
    except Missing:
        return None


@_both("Help")
def _help(request, holder):
    prop = properties.find(holder, request.arg)
    return f"{prop.name} ({wire_kind(prop)}{', read-only' if prop.read_only else ''})"


@_both("Set", payload=True, writes=True)
def _set(request, holder):
    properties.set_from_payload(holder, request.arg, request.payload)


@_both("Reset", writes=True)
def _reset(request, holder):
    properties.reset(holder, request.arg)
