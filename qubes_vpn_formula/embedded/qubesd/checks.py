# SPDX-License-Identifier: GPL-2.0-or-later
"""What a property accepts beyond its kind: each function takes holder and parsed value, returns
the value to store, or raises the error that qubesd answers."""

import re

from . import labels
from .errors import EmptyAnswer, Missing, property_value_error, value_error
from .names import LETTERS_DIGITS, only

_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_INTERFACES = re.compile(r"([bump*][0-9a-f*]{6})*")
_LAYOUT_VARIANT = re.compile(r"[a-zA-Z0-9_-]*")
_LAYOUT_OPTIONS = re.compile(r"[a-zA-Z0-9_:,-]*")


def label(holder, text: str) -> str:
    """Name of the label; given by name, by index, or as `label-INDEX`."""
    if text.startswith("label-"):
        return labels.by_index(holder.machine, text.removeprefix("label-"))
    return labels.find(holder.machine, text)


def mac(holder, text: str) -> str:
    text = text.lower()
    if not _MAC.fullmatch(text):
        raise EmptyAnswer
    return text


def positive(holder, number: int) -> int:
    if number <= 0:
        raise property_value_error(f"must be positive, not {number}")
    return number


def not_negative(holder, number: int) -> int:
    if number < 0:
        raise property_value_error(f"must be positive or zero, not {number}")
    return number


def virt_mode(holder, text: str) -> str:
    text = text.lower()
    if text not in ("hvm", "pv", "pvh"):
        raise property_value_error("virt_mode must be hvm, pv or pvh")
    return text


def kernel(qube, name: str) -> str:
    if "/" in name:
        raise property_value_error("kernel name cannot contain '/'")
    return installed_kernel(qube, name)


def installed_kernel(holder, name: str) -> str:
    """An installed kernel, or an empty text for none."""
    if name and name not in holder.machine.state["kernels"]:
        raise property_value_error(f"kernel {name!r} is not installed")
    return name


def kernelopts(qube, text: str) -> str:
    if len(text) > 512:
        raise property_value_error("kernelopts are longer than 512 characters")
    return text


def user(qube, text: str) -> str:
    if not only(text, LETTERS_DIGITS + "_-+,."):
        raise property_value_error("invalid characters in user name")
    return text


def keyboard(holder, text: str) -> str:
    parts = text.split("+")
    if len(parts) != 3:
        raise property_value_error("keyboard layout must be LAYOUT+VARIANT+OPTIONS")
    layout, variant, options = parts
    if not (
        layout.isalpha()
        and _LAYOUT_VARIANT.fullmatch(variant)
        and _LAYOUT_OPTIONS.fullmatch(options)
    ):
        raise property_value_error("invalid keyboard layout, variant or options")
    return text


def device_interfaces(holder, text: str) -> str:
    """Codes of seven characters, stored sorted and without duplicates."""
    if len(text) % 7:
        raise value_error("device interfaces are seven characters each")
    codes = {text[start : start + 7] for start in range(0, len(text), 7)}
    text = "".join(sorted(codes))
    if not _INTERFACES.fullmatch(text):
        raise property_value_error("invalid device interface")
    return text


def pool(machine, name: str) -> str:
    if name not in machine.state["pools"]:
        raise property_value_error(f"no such storage pool: {name!r}")
    return name


def netvm(qube, name: str | None) -> str | None:
    """A netvm must provide network and must not, by any way, be a client of the qube."""
    if name is None:
        return None
    provider = qube.machine.qube(name)
    if not provider.get("provides_network"):
        raise value_error(f"qube {name} does not provide network")
    if name == qube.name or provider in downstream(qube):
        raise value_error(f"netvm {name} of {qube.name} would be a loop")
    return name


def provides_network(qube, value: bool) -> bool:
    if not value and any(qube.clients()):
        raise value_error(f"{qube.name} is the netvm of other qubes, change theirs first")
    return value


def default_netvm(machine, name: str | None) -> str | None:
    """May be any qube, even one that provides no network, as long as there is no loop."""
    if name is None:
        return None
    value = machine.qube(name)
    for qube in machine.qubes():
        if not qube.has_netvm or not qube.is_default("netvm"):
            continue
        if value == qube or value in downstream(qube):
            raise property_value_error(f"network loop on {qube.name!r}")
    return name


def disposable_template(qube, name: str) -> str:
    if not qube.machine.qube(name).get_or("template_for_dispvms", False):
        raise property_value_error(f"{name} does not have template_for_dispvms=True")
    return name


def downstream(qube) -> set:
    """All qubes that reach the network through *qube*, itself only in a loop."""
    if not qube.has_netvm:
        raise Missing("clients of " + qube.name)
    found, new = set(), {qube}
    while new:
        for client in new.pop().clients():
            if client not in found:
                found.add(client)
                new.add(client)
    return found
