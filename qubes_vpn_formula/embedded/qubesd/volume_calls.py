# SPDX-License-Identifier: GPL-2.0-or-later
"""admin.vm.volume.*"""

from . import features, volumes
from .errors import AdminError, EmptyAnswer, Missing, enforce, value_error
from .method import method
from .names import ascii_text, boolean
from .names import size as parse_size
from .property_values import show


def _volume(request) -> dict:
    if request.dest.klass == "RemoteVM":
        raise Missing("volumes of " + request.dest.name)
    enforce(request.arg in request.dest.volumes)
    return request.dest.volumes[request.arg]


def _refuse_kernel(request, volume) -> None:
    if volumes.is_kernel(request.dest, volume):
        raise EmptyAnswer


@method("admin.vm.volume.List", no_arg=True)
def _list(request):
    return "".join(f"{name}\n" for name in request.dest.volumes)


@method("admin.vm.volume.Info")
def _info(request):
    qube, volume = request.dest, _volume(request)
    origin = volumes.source(qube, volume)
    kernel = volumes.is_kernel(qube, volume)
    pool = request.machine.state["pools"][volume["pool"]]
    vid = volumes.vid(qube, volume)
    path = (
        f"{pool['dir_path']}/{vid}/modules.img" if kernel else f"{pool['dir_path']}/{vid}-dirty.img"
    )
    facts = {
        "pool": volume["pool"],
        "vid": vid,
        "size": 0 if kernel else volumes.size(volume),
        "usage": volume["used"],
        "rw": volume["rw"],
        "source": origin and origin["vid"],
        "path": path if vid else None,
        "save_on_stop": volume["save"],
        "snap_on_start": volume["snap"],
        "revisions_to_keep": volume["keep"],
        "ephemeral": volumes.ephemeral(qube, volume),
        "is_outdated": volumes.outdated(qube, volume),
    }
    return "".join(f"{key}={show(value)}\n" for key, value in facts.items())


@method("admin.vm.volume.ListSnapshots")
def _list_snapshots(request):
    return "".join(f"{number}\n" for number, _ in _volume(request)["revisions"])


@method("admin.vm.volume.Revert", payload=True, writes=True)
def _revert(request):
    volume = _volume(request)
    wanted = ascii_text(request.payload).strip()
    chosen = [revision for revision in volume["revisions"] if str(revision[0]) == wanted]
    enforce(chosen)
    if volume["save"] and volume["started"] is not None:
        raise AdminError("StoragePoolException", f"{volume['vid']} is in use")
    volumes.add_revision(request.dest, volume)
    volume["revisions"].remove(chosen[0])
    volume["generation"] = request.machine.serial()


@method("admin.vm.volume.Resize", payload=True, writes=True)
def _resize(request):
    volume = _volume(request)
    size = parse_size(request.payload.strip())
    _refuse_kernel(request, volume)
    if not volume["rw"]:
        raise AdminError("StoragePoolException", f"{volume['vid']} is read-only")
    if volume["started"] is not None:
        volume["started"]["size"] = size
    else:
        volume["generation"] = request.machine.serial()
    volume["size"] = size


@method("admin.vm.volume.Clear", writes=True)
def _clear(request):
    volume = _volume(request)
    enforce(volume["save"])
    volumes.commit(request.dest, volume, volumes.size(volume))
    volume["used"] = 0


@method("admin.vm.volume.CloneFrom", writes=True)
def _clone_from(request):
    _volume(request)
    token = request.machine.new_uuid().replace("-", "")
    request.machine.state["clones"][token] = [request.dest.name, request.arg]
    return token


@method("admin.vm.volume.CloneTo", payload=True, writes=True)
def _clone_to(request):
    volume = _volume(request)
    token = ascii_text(request.payload).strip()
    enforce(token in request.machine.state["clones"])
    owner, name = request.machine.state["clones"].pop(token)
    source_qube = request.machine.find(owner)
    enforce(source_qube)
    _copy(request, source_qube, source_qube.volumes[name], volume)
    if request.machine.release.bootmodes:
        _choose_bootmode(request)


def _copy(request, source_qube, source, volume) -> None:
    if volumes.snapshots_off(source) and source["started"] is not None:
        raise AdminError("StoragePoolException", f"{source['vid']} is in use")
    if volumes.is_kernel(request.dest, volume):
        if not volumes.is_kernel(source_qube, source):
            raise AdminError("StoragePoolException", "a kernel volume takes only kernels")
        return
    if not volume["save"]:
        return
    from_kernel = volumes.is_kernel(source_qube, source)
    enforce(source["save"] or from_kernel)
    volumes.commit(request.dest, volume, 0 if from_kernel else source["size"])
    volume["used"] = source["used"]


def _choose_bootmode(request) -> None:
    """A standalone qube starts with the boot mode that its new root volume's features ask for."""
    qube = request.dest
    mode = qube.features.get("boot-mode.standalone-default")
    if qube.klass != "StandaloneVM" or request.arg != "root" or mode is None:
        return
    if mode == "default" or "boot-mode.kernelopts." + mode in qube.features:
        features.assign(qube, "boot-mode.active", mode)


def _boolean(request) -> bool:
    try:
        return boolean(ascii_text(request.payload))
    except AdminError as error:
        raise EmptyAnswer from error


def _require_halted(qube) -> None:
    if qube.running:
        raise AdminError("QubesVMNotHaltedError", f"{qube} is not powered off")


@method("admin.vm.volume.Set.rw", payload=True, writes=True)
def _set_rw(request):
    volume = _volume(request)
    value = _boolean(request)
    _require_halted(request.dest)
    if value and volumes.is_kernel(request.dest, volume):
        raise value_error("a kernel volume is always read-only")
    volume["rw"] = value


@method("admin.vm.volume.Set.ephemeral", payload=True, writes=True)
def _set_ephemeral(request):
    volume = _volume(request)
    value = _boolean(request)
    if request.machine.release.ephemeral_needs_halt:
        _require_halted(request.dest)
        _refuse_kernel(request, volume)
    if volumes.is_kernel(request.dest, volume) or (
        value and (volume["snap"] or volume["save"] or not volume["rw"])
    ):
        raise value_error("only a writable volatile volume can be ephemeral")
    volume["ephemeral"] = value


@method("admin.vm.volume.Set.revisions_to_keep", payload=True, writes=True)
def _set_revisions_to_keep(request):
    volume = _volume(request)
    may_be_off = request.machine.release.revisions_may_be_off
    value = parse_size(request.payload, negative=may_be_off)
    if may_be_off:
        _check_switching_off(request.dest, volume, value)
    if value and volumes.is_kernel(request.dest, volume):
        raise value_error("a kernel volume has no revisions")
    volume["keep"] = value


def _check_switching_off(qube, volume, value: int) -> None:
    if value < -1:
        raise value_error("revisions_to_keep cannot be less than -1")
    if value != volume["keep"] and -1 in (value, volume["keep"]):
        _require_halted(qube)
        if qube.klass == "AppVM":
            for disposable in qube.disposables():
                _require_halted(disposable)
