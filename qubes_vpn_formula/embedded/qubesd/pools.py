# SPDX-License-Identifier: GPL-2.0-or-later
"""Storage pools: admin.pool.*

Their size and usage are made up; pools of other drivers than file-reflink, file and linux-kernel
cannot be added.
"""

import posixpath

from . import volumes
from .errors import AdminError, EmptyAnswer, enforce, value_error
from .machine import LOCAL
from .method import method
from .names import WORD, ascii_text, boolean, only
from .names import size as parse_size

#: driver -> parameters beside the name; starred ones are required
_DRIVERS = {
    "callback": ("*conf_id",),
    "file": ("revisions_to_keep", "*dir_path", "ephemeral_volatile"),
    "file-reflink": ("revisions_to_keep", "*dir_path", "setup_check", "ephemeral_volatile"),
    "linux-kernel": ("*dir_path",),
    "lvm_thin": ("revisions_to_keep", "*volume_group", "*thin_pool", "ephemeral_volatile"),
    "zfs": (
        "revisions_to_keep",
        "*container",
        "ephemeral_volatile",
        "snap_on_start_forensics",
    ),
}
_SIZE = 512 * 1024**3
_USAGE = 64 * 1024**3
_DEFAULTS = ("default_pool", *("default_pool_" + name for name in volumes.NAMES))


def find(machine, name: str) -> str:
    """*name*, if there is such a pool; else `QubesException`."""
    if name not in machine.state["pools"]:
        raise AdminError("QubesException", f"unknown storage pool {name}")
    return name


def _pool(request) -> dict:
    enforce(request.arg in request.machine.state["pools"])
    return request.machine.state["pools"][request.arg]


@method("admin.pool.List", dom0=True, no_arg=True)
def _list(request):
    return "".join(f"{name}\n" for name in request.machine.state["pools"])


@method("admin.pool.ListDrivers", dom0=True, no_arg=True)
def _list_drivers(request):
    return "".join(
        f"{driver} {' '.join(parameter.lstrip('*') for parameter in parameters)}\n"
        for driver, parameters in _DRIVERS.items()
    )


@method("admin.pool.Info", dom0=True)
def _info(request):
    pool = _pool(request)
    config = {"name": request.arg, **pool}
    if pool["driver"] == volumes.KERNEL_POOL_DRIVER:
        del config["revisions_to_keep"], config["ephemeral_volatile"]
        more = {}
    else:
        more = {"size": _SIZE, "usage": _USAGE}
    parent = _parent(request.machine, request.arg, pool["dir_path"])
    if parent is not None:
        more["included_in"] = parent
    facts = [*sorted(config.items()), *more.items()]
    return "".join(f"{key}={value}\n" for key, value in facts)


def _parent(machine, name: str, path: str) -> str | None:
    """Another pool in whose folder *path* lies."""
    for other, pool in machine.state["pools"].items():
        if other != name and posixpath.commonpath([pool["dir_path"], path]) == pool["dir_path"]:
            return other
    return None


@method("admin.pool.UsageDetails", dom0=True)
def _usage(request):
    if _pool(request)["driver"] == volumes.KERNEL_POOL_DRIVER:
        return ""
    return f"data_size={_SIZE}\ndata_usage={_USAGE}\n"


@method("admin.pool.volume.List", dom0=True)
def _list_volumes(request):
    if _pool(request)["driver"] == volumes.KERNEL_POOL_DRIVER:
        return "".join(f"{kernel}\n" for kernel in request.machine.state["kernels"])
    return "".join(
        f"{volume['vid']}\n"
        for qube in request.machine.state["qubes"].values()  # oldest first
        for volume in qube["volumes"].values()
        if volume["pool"] == request.arg
    )


@method("admin.pool.Add", dom0=True, payload=True, writes=True)
def _add(request):
    if request.arg not in _DRIVERS:
        raise AdminError("QubesException", f"unknown pool driver {request.arg}")
    lines = ascii_text(request.payload).splitlines()
    enforce(all("=" in line for line in lines))
    options = dict(line.split("=", 1) for line in lines)
    enforce(len(options) == len(lines) and "name" in options)
    name = options.pop("name")
    pools = request.machine.state["pools"]
    enforce(only(name, WORD) and name not in pools)
    _check_options(request, options)
    enforce(request.arg in ("file", "file-reflink", "linux-kernel"))
    pools[name] = {
        "dir_path": posixpath.normpath(options["dir_path"]),
        "driver": request.arg,
        "revisions_to_keep": int(options.get("revisions_to_keep", 1)),
        "ephemeral_volatile": boolean(options.get("ephemeral_volatile", "no")),
    }


def _check_options(request, options: dict[str, str]) -> None:
    known = _DRIVERS[request.arg]
    unknown = [key for key in options if key not in known and "*" + key not in known]
    if unknown:
        raise AdminError("QubesException", "unknown driver options: " + " ".join(unknown))
    missing = [key[1:] for key in known if key.startswith("*") and key[1:] not in options]
    if missing and request.machine.release.pool_options_required:
        raise AdminError("QubesException", "missing driver options: " + " ".join(missing))
    enforce(not missing)


@method("admin.pool.Remove", dom0=True, writes=True)
def _remove(request):
    _pool(request)
    machine, name = request.machine, request.arg
    enforce(all(qube.klass in LOCAL for qube in machine.qubes()))  # a RemoteVM crashes qubesd here
    used = any(v["pool"] == name for qube in machine.qubes() for v in qube.volumes.values())
    if used or name in [machine.get(default) for default in _DEFAULTS]:
        raise AdminError("QubesPoolInUseError", f"storage pool {name} is in use")
    del machine.state["pools"][name]


@method("admin.pool.Set.revisions_to_keep", dom0=True, payload=True, writes=True)
def _set_revisions_to_keep(request):
    pool = _pool(request)
    value = parse_size(request.payload, negative=request.machine.release.revisions_may_be_off)
    enforce(value >= -1)
    if value and pool["driver"] == volumes.KERNEL_POOL_DRIVER:
        raise value_error("a kernel pool has no revisions")
    pool["revisions_to_keep"] = value


@method("admin.pool.Set.ephemeral_volatile", dom0=True, payload=True, writes=True)
def _set_ephemeral(request):
    pool = _pool(request)
    try:
        pool["ephemeral_volatile"] = boolean(ascii_text(request.payload))
    except AdminError as error:
        raise EmptyAnswer from error
