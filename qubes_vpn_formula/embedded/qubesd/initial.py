# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine as freshly installed: the state that the recordings in tests/contract start from."""

import functools
import json

from . import features, lifecycle, tags, volumes
from .machine import Machine

_LABELS = {
    "red": "0xcc0000",
    "orange": "0xf57900",
    "yellow": "0xedd400",
    "green": "0x73d216",
    "gray": "0x555555",
    "blue": "0x3465a4",
    "purple": "0x75507b",
    "black": "0x000000",
}
_KERNEL = "6.12.0-1.qubes.fc41"
_TEMPLATES = ("fedora-42-xfce", "debian-13-xfce", "debian-13-minimal", "fedora-42-minimal")
#: the templates' root volumes are small here
_TEMPLATE_ROOT_SIZE = 16 * 1024**2
_TEMPLATE_FEATURES = (
    "qrexec",
    "os",
    "gui",
    "qubes-firewall",
    "supported-service.qubes-firewall",
    "supported-service.qubes-updates-proxy",
    "supported-service.network-manager",
    "supported-service.meminfo-writer",
    "supported-service.clocksync",
)
#: name, label, explicit properties
_QUBES = (
    ("default-dvm", "red", {"template_for_dispvms": True}),
    ("default-mgmt-dvm", "black", {"template_for_dispvms": True, "netvm": None}),
    ("sys-net", "red", {"provides_network": True, "netvm": None}),
    ("sys-firewall", "green", {"provides_network": True, "netvm": "sys-net"}),
    ("personal", "yellow", {}),
    ("work", "blue", {}),
    ("untrusted", "red", {}),
    ("vault", "black", {"netvm": None}),
)


def state(version: str) -> dict:
    """A new initial state for the release *version*."""
    return json.loads(_text(version))


@functools.cache
def _text(version: str) -> str:
    machine = Machine.of(version, bare())
    for name in _TEMPLATES:
        _add_template(machine, name)
    for name, label, explicit in _QUBES:
        _add_qube(machine, name, label, explicit)
    features.assign(machine.qube("default-mgmt-dvm"), "internal", "1")
    features.assign(machine.qube("sys-net"), "service.clocksync", "1")
    machine.stored.update(
        default_netvm="sys-firewall",
        updatevm="sys-firewall",
        clockvm="sys-net",
        default_dispvm="default-dvm",
        management_dispvm="default-mgmt-dvm",
    )
    return json.dumps(machine.state)


def bare() -> dict:
    """A machine with nothing but dom0."""
    dom0 = {
        "klass": "AdminVM",
        "properties": {"label": "black"},
        "features": {},
        "tags": [],
        "volumes": {},
        "power": "Running",
        "xid": 0,
        "defined": True,
        "qubesdb": {},
    }
    return {
        "globals": {
            "default_kernel": _KERNEL,
            "default_pool_kernel": "linux-kernel",
            "default_template": _TEMPLATES[0],
        },
        "labels": {
            str(number): {"name": name, "color": color}
            for number, (name, color) in enumerate(_LABELS.items(), 1)
        },
        "pools": {
            "varlibqubes": {
                "dir_path": "/var/lib/qubes",
                "driver": "file-reflink",
                "revisions_to_keep": 1,
                "ephemeral_volatile": False,
            },
            "linux-kernel": {
                "dir_path": volumes.KERNELS_DIR,
                "driver": volumes.KERNEL_POOL_DRIVER,
                "revisions_to_keep": 0,
                "ephemeral_volatile": False,
            },
        },
        "kernels": [_KERNEL],
        "clones": {},  # token -> [qube, volume] that may be copied
        "serial": 0,
        "last_xid": 0,
        "qubes": {"dom0": dom0},
    }


def _add_template(machine, name: str) -> None:
    qube = lifecycle.make(machine, "TemplateVM", name, "black", None)
    qube.stored["netvm"] = None
    tags.add(qube, "created-by-dom0")
    qube.volumes["root"]["size"] = _TEMPLATE_ROOT_SIZE
    for feature in _TEMPLATE_FEATURES:
        qube.features[feature] = "Linux" if feature == "os" else "1"


def _add_qube(machine, name: str, label: str, explicit: dict) -> None:
    template = machine.qube(_TEMPLATES[0])
    qube = lifecycle.make(machine, "AppVM", name, label, template, **explicit)
    tags.add(qube, "created-by-dom0")
    if explicit.get("provides_network"):
        features.assign(qube, "servicevm", "1")
