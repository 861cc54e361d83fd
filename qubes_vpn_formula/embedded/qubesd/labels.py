# SPDX-License-Identifier: GPL-2.0-or-later
"""Labels: index, name and colour; admin.label.*"""

import string

from .errors import AdminError, EmptyAnswer, enforce, value_error
from .method import method
from .names import WORD, ascii_text, only

#: labels up to this index come with Qubes and stay
_BUILT_IN = 8


def _index(machine, text: str) -> str | None:
    for index, label in machine.state["labels"].items():
        if label["name"] == text:
            return index
    try:
        index = str(int(text))
    except ValueError:
        return None
    return index if index in machine.state["labels"] else None


def find(machine, text: str) -> str:
    """Name of the label that *text* is the name or index of."""
    index = _index(machine, text)
    if index is None:
        raise AdminError("QubesLabelNotFoundError", f"no such label: {text}")
    return machine.state["labels"][index]["name"]


def by_index(machine, text: str) -> str:
    """Name of the label with the index *text*; no answer without one."""
    try:
        return machine.state["labels"][str(int(text))]["name"]
    except (KeyError, ValueError):
        raise EmptyAnswer from None


def _existing(request) -> str:
    index = _index(request.machine, request.arg)
    if index is None:
        raise value_error(f"no such label: {request.arg}")
    return index


@method("admin.label.List", dom0=True, no_arg=True)
def _list(request):
    return "".join(f"{label['name']}\n" for label in request.machine.state["labels"].values())


@method("admin.label.Get", dom0=True)
def _get(request):
    return request.machine.state["labels"][_existing(request)]["color"]


@method("admin.label.Index", dom0=True)
def _get_index(request):
    return _existing(request)


@method("admin.label.Create", dom0=True, payload=True, writes=True)
def _create(request):
    enforce(not request.arg.isdigit() and only(request.arg, WORD))
    if _index(request.machine, request.arg) is not None:
        raise value_error("label already exists")
    color = ascii_text(request.payload).strip()
    enforce(len(color) == 8 and color.startswith("0x") and only(color[2:], string.hexdigits))
    labels = request.machine.state["labels"]
    new = max(_BUILT_IN, *map(int, labels)) + 1
    labels[str(new)] = {"name": request.arg, "color": color}


@method("admin.label.Remove", dom0=True, writes=True)
def _remove(request):
    labels = request.machine.state["labels"]
    index = _existing(request)
    enforce(int(index) > _BUILT_IN)
    if any(qube.get("label") == labels[index]["name"] for qube in request.machine.qubes()):
        raise AdminError("QubesException", "label still in use")
    del labels[index]
