# SPDX-License-Identifier: GPL-2.0-or-later
"""Making and removing qubes: admin.vm.Create*, admin.vm.Remove.

Source: qubes/api/admin.py, qubes/app.py, qubes/vm/{appvm,dispvm}.py of qubes-core-admin.
"""

from . import features, properties, tags, volumes
from .errors import AdminError, EmptyAnswer, Missing, enforce, property_value_error, value_error
from .events import fire, on
from .labels import find as find_label
from .machine import QUBES, Qube
from .method import method
from .names import WORD, ascii_text, check_qube_name, only
from .pools import find as find_pool
from .releases import RELEASES

_HIGHEST_QID = 10000
_HIGHEST_DISPID = 10000


def make(machine, klass: str, name: str | None, label: str | None, template, **explicit) -> Qube:
    """Add a qube: properties, features, tags and volumes as a new one has them.

    *template*: a `Qube`, or None for the default one.
    """
    stored = {"qid": _free(machine, "qid", range(1, _HIGHEST_QID))}
    if klass in ("AppVM", "DispVM"):
        stored["template"] = _check_template(machine, klass, template).name
    if klass == "DispVM":
        stored["dispid"] = _new_dispid(machine)
        name = name or f"disp{stored['dispid']}"
    if label is not None:
        stored["label"] = label
    stored = {**stored, "name": name, "uuid": machine.new_uuid(), **explicit}
    machine.state["qubes"][name] = {
        "klass": klass,
        "properties": stored,
        "features": {},
        "tags": [],
        "volumes": {},
        "rules": None,
        "notes": "",
        "power": "Running" if klass == "RemoteVM" else "Halted",
        "xid": -1,
        "link": None,
        "defined": False,
        "qubesdb": {},
    }
    qube = Qube(machine, name)
    try:
        _furnish(qube)
    except (AdminError, EmptyAnswer):
        del machine.state["qubes"][name]
        raise
    return qube


def _furnish(qube) -> None:
    if qube.klass in QUBES and not qube.machine.get("check_updates_vm"):
        qube.features["check-updates"] = ""
    fire("created", qube)
    if qube.klass in QUBES:
        volumes.create_all(qube)
    if qube.klass == "DispVM":
        _copy_template(qube, qube.template)


def _check_template(machine, klass: str, template: Qube | None) -> Qube:
    if template is None:
        default = machine.get("default_dispvm" if klass == "DispVM" else "default_template")
        template = machine.find(default)
        if template is None:
            raise value_error("no template given, and no default template set")
    if klass == "DispVM":
        if not template.get_or("template_for_dispvms", False):
            raise value_error(f"{template} does not have template_for_dispvms=True")
    elif template.klass not in QUBES:
        raise Missing("volumes of " + template.name)
    elif template.klass != "TemplateVM":
        raise property_value_error(f"{template} is a {template.klass}, not a TemplateVM")
    return template


def _free(machine, name: str, numbers) -> int:
    used = {qube.get_or(name) for qube in machine.qubes()}
    return next(number for number in numbers if number not in used)


def _new_dispid(machine) -> int:
    """Random in reality; here scattered, so that nobody counts on an order."""
    start = machine.serial() * 7919
    return _free(machine, "dispid", ((start + n) % _HIGHEST_DISPID for n in range(_HIGHEST_DISPID)))


def _copy_template(qube, template) -> None:
    """A disposable takes over what its template has set: properties, firewall, features, tags."""
    shared = properties.table(template)
    for name, prop in properties.table(qube).items():
        if (
            name in shared
            and shared[name].copied
            and prop.copied
            and name != "template"
            and qube.is_default(name)
            and not template.is_default(name)
        ):
            qube.stored[name] = template.stored[name]
    qube.data["rules"] = template.data["rules"]
    for feature, value in list(template.features.items()):
        if not (qube.machine.release.preload and feature.startswith("preload-dispvm")):
            features.assign(qube, feature, value)
    for tag in list(template.tags):
        tags.add(qube, tag)


def _create(request, klass: str, pools_allowed: bool) -> None:
    machine = request.machine
    template = _template_argument(request, klass)
    given, pools = _parameters(request, template is not None, pools_allowed)
    enforce("name" in given and "label" in given)
    enforce(len(pools) < 2 or None not in pools)
    if machine.find(given["name"]):
        raise value_error(f"there is a qube {given['name']} already")
    if klass == "AdminVM":
        raise property_value_error("there is only one AdminVM")
    qube = make(machine, klass, given["name"], given["label"], template)
    tags.add(qube, "created-by-dom0")  # when this fails, the qube stays
    if klass in QUBES:
        try:
            volumes.place(qube, _volume_pools(qube, pools))
        except (AdminError, EmptyAnswer):
            del machine.state["qubes"][qube.name]
            raise


def _template_argument(request, klass: str) -> Qube | None:
    if not request.arg:
        return None
    if klass not in ("AppVM", "DispVM"):
        raise value_error(f"{klass} cannot be based on a template")
    return request.machine.qube(request.arg)


def _parameters(request, has_template: bool, pools_allowed: bool):
    """Name and label, and pools by volume (None: all)."""
    given, pools = {}, {}
    for parameter in ascii_text(request.payload).split(" "):
        key, separator, value = parameter.partition("=")
        enforce(separator and key not in given)
        if key == "name":
            check_qube_name(request.machine.release, value)
            given["name"] = value
        elif key == "label":
            enforce(not value.isdigit() and only(value, WORD))
            given["label"] = find_label(request.machine, value)
        elif key == "pool" and pools_allowed:
            enforce(None not in pools)
            pools[None] = find_pool(request.machine, value)
        elif key.startswith("pool:") and pools_allowed:
            volume = key.removeprefix("pool:")
            enforce(volume in volumes.NAMES and volume not in pools)
            pools[volume] = find_pool(request.machine, value)
        else:
            raise EmptyAnswer
    return given, pools


def _volume_pools(qube, pools: dict) -> dict[str, str]:
    if None not in pools:
        return pools
    return dict.fromkeys(volumes.movable(qube), pools[None])


def _register(klass: str) -> None:
    only_in = None if klass in RELEASES["4.2"].classes else "4.3"
    how = {"dom0": True, "payload": True, "writes": True, "only": only_in}
    method("admin.vm.Create." + klass, **how)(lambda r: _create(r, klass, False))
    method("admin.vm.CreateInPool." + klass, **how)(lambda r: _create(r, klass, True))


for _class in RELEASES["4.3"].classes:
    _register(_class)


def delete(qube) -> None:
    """Remove a qube that is off and that nothing refers to."""
    if qube.klass in QUBES and qube.running:
        raise AdminError("QubesVMNotHaltedError", f"{qube} is not powered off")
    for holder in (*qube.machine.qubes(), qube.machine):
        if holder is not qube.machine and holder == qube:
            continue
        for name, prop in properties.table(holder).items():
            if prop.kind == "vm" and holder.get_or(name) == qube.name:
                raise AdminError("QubesVMInUseError", f"{qube} is in use: {name} of {holder.name}")
    del qube.machine.state["qubes"][qube.name]


@on("shutdown", classes=frozenset({"DispVM"}))
def _clean_up(qube):
    if qube.get("auto_cleanup") and qube.machine.find(qube.name):
        delete(qube)


@method("admin.vm.Remove", no_arg=True, writes=True)
def _remove(request):
    qube = request.dest
    if qube.name == "dom0":
        raise AdminError("QubesVMInUseError", "dom0 cannot be removed")
    if qube.get_or("installed_by_rpm", False):
        raise AdminError("QubesVMInUseError", f"{qube} was installed by the package manager")
    delete(qube)
