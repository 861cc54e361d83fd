# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting, stopping and pausing qubes.

A start takes no time and always works, unless qubesd itself refuses. Source: qubes/vm/qubesvm.py,
qubes/vm/dispvm.py of qubes-core-admin.
"""

from . import lifecycle, qubesdb, volumes
from .defaults import HOST_MEMORY
from .errors import AdminError, EmptyAnswer, Missing
from .events import fire, on
from .machine import DISPOSABLE_TEMPLATES, QUBES
from .method import method

#: what a running qube reports, in KiB and nanoseconds
_MEMORY, _MEMORY_LIMIT, _CPU_TIME = 409600, 4194304, 1000000000


def start(qube) -> None:
    """Start *qube*, and its netvms before it; nothing when it is on."""
    if qube.klass == "DispVM":
        _start_disposable(qube)
    else:
        _start(qube)


def _start_disposable(qube) -> None:
    try:
        if not qube.template.get_or("template_for_dispvms", False):
            raise AdminError(
                "QubesException", f"{qube.template} does not have template_for_dispvms=True"
            )
        _start(qube)
    except (AdminError, EmptyAnswer):
        everyone = qube.machine.release.failed_start_removes_any_disposable
        if everyone or qube.get("auto_cleanup"):
            if qube.running:
                halt(qube)
            if qube.machine.find(qube.name):
                lifecycle.delete(qube)
        raise


def _start(qube) -> None:
    if qube.power != "Halted":
        return
    reason = qube.features.get("prohibit-start")
    if reason and qube.machine.release.prohibit_start:
        raise AdminError("QubesException", f"start of {qube} is prohibited: {reason}")
    fire("pre-start", qube)
    if qube.netvm is not None and qube.netvm.name != "dom0" and not qube.netvm.running:
        start(qube.netvm)
    volumes.start(qube)
    try:
        fire("pre-spawn", qube)
    except (AdminError, EmptyAnswer):
        volumes.stop(qube)
        raise
    qube.machine.state["last_xid"] += 1
    qube.data.update(
        power="Running",
        xid=qube.machine.state["last_xid"],
        qubesdb={},
        link=qube.get("netvm"),
        defined=True,
    )
    try:
        qubesdb.create(qube)
        fire("start", qube)
    except (AdminError, EmptyAnswer):
        halt(qube)
        raise


@on("pre-start")
def _refuse_during_restore(qube):
    if "backup-restore-in-progress" in qube.tags:
        raise AdminError("QubesVMError", f"{qube} is being restored from a backup")


@on("pre-start", classes=DISPOSABLE_TEMPLATES)
def _refuse_under_disposables(qube):
    if any(volumes.snapshots_off(volume) for volume in qube.volumes.values()):
        for disposable in qube.disposables():
            if disposable.running:
                raise AdminError("QubesVMNotHaltedError", f"{disposable} is not powered off")


def halt(qube) -> None:
    """What follows when a qube is off, however that came about."""
    qube.data.update(power="Halted", xid=-1, qubesdb={}, link=None)
    volumes.stop(qube)
    fire("shutdown", qube)


def _error(kind: str, qube, state: str) -> AdminError:
    return AdminError(kind, f"{qube} is {state}")


def _require_qube(request):
    """dom0 and remote qubes have no such method."""
    if request.dest.klass not in QUBES:
        raise Missing(request.method)
    return request.dest


@method("admin.vm.Start", no_arg=True, writes=True)
def _start_call(request):
    if request.dest.klass not in QUBES:
        raise _error("QubesVMNotHaltedError", request.dest, "not startable")
    start(request.dest)


@method("admin.vm.Shutdown", writes=True)
def _shutdown(request):
    options = request.arg.split("+") if request.arg else []
    if any(option not in ("force", "wait") for option in options):
        raise EmptyAnswer
    qube = _require_qube(request)
    force = "force" in options
    if not qube.running:
        raise _error("QubesVMNotStartedError", qube, "powered off")
    fire("pre-shutdown", qube, force)
    deferring = qube.machine.release.defers_netvm_when_paused
    if qube.paused and not force and not qube.preloaded and deferring:
        raise _error("QubesVMNotRunningError", qube, "paused")
    halt(qube)


@method("admin.vm.Kill", no_arg=True, writes=True)
def _kill(request):
    qube = request.dest
    if qube.klass not in QUBES:
        raise _error("QubesVMError", qube, "not a qube that can be killed")
    if not qube.running:
        raise _error("QubesVMNotStartedError", qube, "powered off")
    halt(qube)


def _require_running(qube) -> None:
    if not qube.running:
        raise _error("QubesVMNotRunningError", qube, "powered off")


@method("admin.vm.Pause", no_arg=True, writes=True)
def _pause(request):
    qube = _require_qube(request)
    _require_running(qube)
    qube.data["power"] = "Paused"


@method("admin.vm.Unpause", no_arg=True, writes=True)
def _unpause(request):
    _resume_paused(_require_qube(request))


def _resume_paused(qube) -> None:
    if not qube.paused:
        raise _error("QubesVMNotPausedError", qube, "not paused")
    qube.data["power"] = "Running"
    fire("unpaused", qube)


@method("admin.vm.Suspend", no_arg=True, writes=True, only="4.3")
def _suspend(request):
    qube = request.dest
    if qube.klass not in QUBES:
        raise _error("QubesVMError", qube, "not a qube that can be suspended")
    _require_running(qube)
    qube.data["power"] = "Suspended"


@method("admin.vm.Resume", no_arg=True, writes=True, only="4.3")
def _resume(request):
    qube = _require_qube(request)
    if qube.power == "Suspended":
        qube.data["power"] = "Running"
    else:
        _resume_paused(qube)


@method("admin.vm.CurrentState", no_arg=True)
def _current_state(request):
    qube = request.dest
    memory = limit = cpu = 0
    if qube.name == "dom0":
        memory, limit, cpu = _MEMORY_LIMIT, HOST_MEMORY, _CPU_TIME
    elif qube.data["defined"]:
        limit = _MEMORY_LIMIT
        if qube.running:
            memory, cpu = _MEMORY, _CPU_TIME
    return f"mem={memory} mem_static_max={limit} cputime={cpu} power_state={qube.power}"


@method("admin.vm.Console", no_arg=True)
def _console(request):
    qube = request.dest
    if qube.klass == "RemoteVM":
        raise Missing("console of " + qube.name)
    _require_running(qube)
    return ""
