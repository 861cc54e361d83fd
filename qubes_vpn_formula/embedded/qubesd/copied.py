# SPDX-License-Identifier: GPL-2.0-or-later
"""A state with a real machine's qubes in it, from an inventory (`qubes_vpn_inventory`).

What the inventory does not tell is as a new qube has it: disks are empty, other properties and
features have their defaults.
"""

from . import lifecycle, properties
from .initial import bare
from .machine import Machine, Qube

#: those that a qube of another class can be made from come first
_ORDER = ("AdminVM", "TemplateVM", "StandaloneVM", "AppVM", "DispVM", "RemoteVM")
#: what every qube is given when it is made
_IDENTITY = ("qid", "dispid", "name", "uuid", "label", "template")
#: bytes of a volume that is not empty
_SOMETHING = 1024**3


def state(inventory: dict) -> dict:
    """A new state.

    Raises AdminError, Missing or EmptyAnswer when a qube of it cannot be.
    """
    machine = Machine.of(inventory["release"], bare())
    qubes = inventory["qubes"]
    for name in sorted(qubes, key=lambda name: _ORDER.index(qubes[name]["class"])):
        _add(machine, name, qubes[name])
    machine.stored.update(inventory["globals"])
    for name in qubes:
        _see(machine.qube(name), qubes[name]["properties"])
    return machine.state


def _add(machine: Machine, name: str, taken: dict) -> None:
    own = {
        key: found["value"] for key, found in taken["properties"].items() if not found["inherited"]
    }
    if taken["class"] == "AdminVM":
        data = machine.qube(name).data
        data["properties"].update(own)
    else:
        label = own.pop("label")
        template = machine.qube(own.pop("template")) if "template" in own else None
        data = lifecycle.make(machine, taken["class"], name, label, template, **own).data
        data["power"] = taken["power"]
        data["rules"] = taken.get("firewall")
        # A new disposable takes over what its template has, and this one is not new.
        stored = data["properties"]
        data["properties"] = {key: stored[key] for key in stored if key in _IDENTITY} | own
        if "half_made" in taken:
            data["properties"]["uuid"] = taken["half_made"]["uuid"]
            for volume in taken["half_made"]["written"]:
                data["volumes"][volume]["used"] = _SOMETHING
        if "bypass" in taken:
            data["properties"]["uuid"] = taken["bypass"]
    data["features"] = dict(taken["features"])
    data["tags"] = list(taken["tags"])


def _see(qube: Qube, taken: dict) -> None:
    """Keeps the defaults that are not what they would be here; netvms go on following dom0's."""
    table = properties.table(qube)
    qube.data["seen"] = {
        key: found["value"]
        for key, found in taken.items()
        if found["inherited"] and key != "netvm" and found["value"] != qube.get_or(key)
        if key in table
    }
