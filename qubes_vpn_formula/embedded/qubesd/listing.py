# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of qubes and classes, notes, and backups (of which there are none)."""

from .errors import AdminError, EmptyAnswer, Missing, enforce
from .machine import QUBES
from .method import method

_DEVICE_CLASSES = ("block", "pci")


@method("admin.vm.List", no_arg=True)
def _list(request):
    qubes = request.machine.qubes() if request.dest.name == "dom0" else [request.dest]
    return "".join(_line(qube) + "\n" for qube in qubes)


def _line(qube) -> str:
    line = f"{qube} class={qube.klass} state={qube.power}"
    if qube.machine.release.list_shows_uuid:
        line += f" uuid={qube.get('uuid')}"
    return line


@method("admin.vmclass.List", dom0=True, no_arg=True)
def _list_classes(request):
    return "".join(f"{name}\n" for name in request.machine.release.classes)


@method("admin.deviceclass.List", dom0=True, no_arg=True)
def _list_device_classes(request):
    return "".join(f"{name}\n" for name in _DEVICE_CLASSES)


def _notes_owner(request):
    enforce(request.dest.name != "dom0")
    if request.dest.klass not in QUBES:
        raise Missing("notes of " + request.dest.name)
    return request.dest


@method("admin.vm.notes.Get", only="4.3")
def _get_notes(request):
    return _notes_owner(request).data["notes"]


@method("admin.vm.notes.Set", payload=True, writes=True, only="4.3")
def _set_notes(request):
    """Characters that may not be shown safely become underscores."""
    try:
        text = request.payload.decode()
    except UnicodeDecodeError as error:
        raise EmptyAnswer from error
    shown = (c if c in "\t\n" or c.isprintable() else "_" for c in text)
    _notes_owner(request).data["notes"] = "".join(shown)


@method("admin.backup.Execute", "admin.backup.Info", dom0=True)
def _no_backup_profile(request):
    raise EmptyAnswer


@method("admin.backup.Cancel", dom0=True)
def _no_backup_running(request):
    enforce(request.arg and "/" not in request.arg)
    raise AdminError("QubesException", "no such backup is running")
