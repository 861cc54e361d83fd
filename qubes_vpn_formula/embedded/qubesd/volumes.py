# SPDX-License-Identifier: GPL-2.0-or-later
"""Volumes of a qube: what they are made from, what starting and stopping does to them.

Modelled after the file-reflink pool driver (qubes/storage/{__init__,reflink,kernels}.py of
qubes-core-admin) with empty disks: no data, but sizes, revisions and snapshots. A volume is one of

    origin    keeps its data at stop         (`save`)
    snapshot  starts as a copy of `source`   (`snap`)
    volatile  starts empty                   (neither)
"""

import datetime

from .errors import AdminError, EmptyAnswer

_PRIVATE_SIZE = 2 * 1024**3
_ROOT_SIZE = 10 * 1024**3
NAMES = ("root", "private", "volatile", "kernel")
KERNEL_POOL_DRIVER = "linux-kernel"
KERNELS_DIR = "/var/lib/qubes/vm-kernels"

#: class -> volumes that are snapshots of the template's
_SNAPSHOTS = {"AppVM": ("root",), "DispVM": ("root", "private")}


def create_all(qube) -> None:
    """Make the volumes of a new qube, in the default pools; a disposable's in its template's."""
    for name in NAMES:
        if name in _SNAPSHOTS.get(qube.klass, ()):
            qube.volumes[name] = _snapshot(qube, name)
        elif qube.klass == "DispVM":
            qube.volumes[name] = _own(qube, name, qube.template.volumes[name]["pool"])
        else:
            qube.volumes[name] = _own(qube, name, qube.machine.get("default_pool_" + name))


def place(qube, pools: dict[str, str]) -> None:
    """Put volumes of a new qube into the pools that *pools* names by volume."""
    for name, pool in pools.items():
        if qube.volumes[name]["snap"]:
            raise AdminError("QubesException", f"volume {name} has to be in its template's pool")
        qube.volumes[name] = _own(qube, name, pool)


def movable(qube) -> list[str]:
    """Volumes that a pool given for the whole qube applies to."""
    return [n for n in NAMES if n != "kernel" and n not in _SNAPSHOTS.get(qube.klass, ())]


def follow_template(qube) -> None:
    """Make snapshots anew after a change of template, those of disposables based on it too."""
    for name in _SNAPSHOTS.get(qube.klass, ()):
        qube.volumes[name] = _snapshot(qube, name)
    for disposable in qube.disposables():
        follow_template(disposable)


def _folder(qube) -> str:
    return "vm-templates" if qube.klass == "TemplateVM" else "appvms"


def _volume(qube, name: str, pool: str, **more) -> dict:
    config = qube.machine.state["pools"][pool]
    return {
        "pool": pool,
        "vid": f"{_folder(qube)}/{qube.name}/{name}",
        "size": 0,
        "used": 0,  # bytes that hold something
        "rw": True,
        "save": False,
        "snap": False,
        "source": None,  # [qube, volume]
        "keep": config["revisions_to_keep"],
        "ephemeral": None,
        "revisions": [],  # [number, time]
        "generation": 0,  # of the data at rest: a snapshot of an older one is outdated
        "started": None,  # while the qube runs: {"generation": of the source}
        **more,
    }


def _own(qube, name: str, pool: str) -> dict:
    if is_kernel_pool(qube.machine, pool) and name != "kernel":
        raise EmptyAnswer
    if name == "kernel":
        return _volume(qube, name, pool, rw=False)
    volatile = name == "volatile"
    size = _PRIVATE_SIZE if name == "private" else _ROOT_SIZE
    if volatile and qube.klass == "DispVM":
        size = _ROOT_SIZE + _PRIVATE_SIZE
    return _volume(qube, name, pool, size=size, save=not volatile)


def _snapshot(qube, name: str) -> dict:
    template = qube.template
    parent = template.volumes[name]
    source = parent["source"] or [template.name, name]
    origin = qube.machine.qube(source[0]).volumes[source[1]]
    more = {"rw": parent["rw"], "ephemeral": parent["ephemeral"]} if qube.klass == "DispVM" else {}
    return _volume(qube, name, origin["pool"], size=size(origin), snap=True, source=source, **more)


def is_kernel_pool(machine, pool: str) -> bool:
    return machine.state["pools"][pool]["driver"] == KERNEL_POOL_DRIVER


def is_kernel(qube, volume: dict) -> bool:
    return is_kernel_pool(qube.machine, volume["pool"])


def vid(qube, volume: dict) -> str:
    return qube.get("kernel") if is_kernel(qube, volume) else volume["vid"]


def size(volume: dict) -> int:
    started = volume["started"]
    return volume["size"] if started is None else started["size"]


def source(qube, volume: dict) -> dict | None:
    """The volume that *volume* is a snapshot of."""
    if volume["source"] is None:
        return None
    owner, name = volume["source"]
    return qube.machine.qube(owner).volumes[name]


def outdated(qube, volume: dict) -> bool:
    """Whether a running snapshot's source has moved on."""
    if not volume["snap"] or volume["started"] is None:
        return False
    return volume["started"]["generation"] != source(qube, volume)["generation"]


def ephemeral(qube, volume: dict) -> bool:
    if is_kernel(qube, volume):
        return False
    if volume["ephemeral"] is not None:
        return volume["ephemeral"]
    if volume["snap"] or volume["save"] or not volume["rw"]:
        return False
    return qube.machine.state["pools"][volume["pool"]]["ephemeral_volatile"]


def snapshots_off(volume: dict) -> bool:
    """Whether the volume keeps nothing but its present state, so that nobody else may use it."""
    return volume["keep"] == -1 and volume["save"]


def start(qube) -> None:
    for volume in qube.volumes.values():
        origin = source(qube, volume)
        if origin is not None and snapshots_off(origin) and origin["started"] is not None:
            raise AdminError("QubesVMError", f"volume {origin['vid']} is in use")
    for volume in qube.volumes.values():
        origin = source(qube, volume)
        volume["started"] = {
            "size": size(volume) if origin is None else origin["size"],
            "generation": 0 if origin is None else origin["generation"],
        }
        if snapshots_off(volume):
            volume["revisions"] = []


def stop(qube) -> None:
    for volume in qube.volumes.values():
        started, volume["started"] = volume["started"], None
        if started is None or volume["snap"]:
            continue
        if volume["save"] and not snapshots_off(volume):
            commit(qube, volume, started["size"])
        volume["size"] = started["size"]


def commit(qube, volume: dict, new_size: int) -> None:
    """Make new data the volume's, and the old a revision."""
    add_revision(qube, volume)
    keep = volume["keep"]
    volume["revisions"] = volume["revisions"][-keep:] if keep else []
    volume["size"] = new_size
    volume["generation"] = qube.machine.serial()


def add_revision(qube, volume: dict) -> None:
    if volume["keep"] == 0:
        return
    number = volume["revisions"][-1][0] + 1 if volume["revisions"] else 1
    moment = datetime.datetime.fromtimestamp(int(qube.machine.now()), datetime.UTC)
    volume["revisions"].append([number, moment.strftime("%Y-%m-%dT%H:%M:%S")])
