# SPDX-License-Identifier: GPL-2.0-or-later
"""Tags of qubes; admin.vm.tag.*"""

from . import properties
from .errors import AdminError, EmptyAnswer, enforce
from .events import fire, on
from .machine import LOCAL
from .method import method
from .names import TAG, only

_CREATED_BY = "created-by-"


def add(qube, tag: str) -> None:
    """Set *tag*; reactions only when it is new."""
    if tag not in qube.tags:
        qube.tags.append(tag)
        qube.tags.sort()
        fire("tag-add", qube, tag)


def replace(qube, prefix: str, name: str | None) -> None:
    """Leave PREFIX + *name* as the only tag with that prefix (none without a name)."""
    qube.tags[:] = [tag for tag in qube.tags if not tag.startswith(prefix)]
    if name is not None:
        add(qube, prefix + name)


@on("tag-add", classes=LOCAL)
def _follow_creator(qube, tag):
    """The creator's features say which tags and which guivm its qubes get."""
    if not tag.startswith(_CREATED_BY):
        return
    creator = qube.machine.find(tag.removeprefix(_CREATED_BY))
    if creator is None:
        raise EmptyAnswer
    for extra in creator.features.get("tag-created-vm-with", "").split():
        enforce(only(extra, TAG))
        add(qube, extra)
    guivm = creator.features.get("set-created-guivm")
    if guivm:
        enforce(qube.machine.find(guivm))
        properties.assign(qube, properties.find(qube, "guivm"), guivm)


@method("admin.vm.tag.List", no_arg=True)
def _list(request):
    return "".join(f"{tag}\n" for tag in request.dest.tags)


@method("admin.vm.tag.Get")
def _get(request):
    enforce(only(request.arg, TAG))
    return "1" if request.arg in request.dest.tags else "0"


@method("admin.vm.tag.Set", writes=True)
def _set(request):
    enforce(only(request.arg, TAG))
    add(request.dest, request.arg)


@method("admin.vm.tag.Remove", writes=True)
def _remove(request):
    enforce(only(request.arg, TAG))
    if request.arg not in request.dest.tags:
        raise AdminError("QubesTagNotFoundError", f"{request.dest} has no tag {request.arg!r}")
    request.dest.tags.remove(request.arg)
