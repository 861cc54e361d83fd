# SPDX-License-Identifier: GPL-2.0-or-later
"""Which properties there are, as a table: name, kind, default, check, per class and release.

Source: qubes/vm/*.py, qubes/vm/mix/*.py and qubes/app.py of qubes-core-admin.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from . import addresses, checks, defaults
from .releases import Release

NO_DEFAULT = object()
_LOCAL = frozenset({"AdminVM", "AppVM", "DispVM", "StandaloneVM", "TemplateVM"})


@dataclass(frozen=True)
class Property:
    name: str
    kind: str = "str"  # str, int, bool, label, vm, ipv4, ipv6, uuid
    default: object = None  # a value, a function of the holder, or NO_DEFAULT
    check: Callable | None = None  # (holder, parsed value) -> value to store, or raises
    write_once: bool = False
    read_only: bool = False
    copied: bool = True  # a disposable takes it over from its template
    references: bool = False  # listed after the others: loaded when all qubes are known
    classes: frozenset[str] = _LOCAL  # kind vm: which qubes it may name
    none_allowed: bool = True  # kind vm: whether it may be empty

    @property
    def _place(self):
        return (self.references, self.name)


def _computed(name: str, function, kind: str = "str") -> Property:
    return Property(name, kind, function, read_only=True)


def _qube(name: str, default, **more) -> Property:
    return Property(name, "vm", default, references=True, **more)


def _base(release: Release) -> list[Property]:
    return [
        Property("uuid", "uuid", NO_DEFAULT, write_once=True, copied=False),
        Property("name", default=NO_DEFAULT, write_once=True, copied=False),
        Property("qid", "int", NO_DEFAULT, write_once=True, copied=False),
        Property("label", "label", NO_DEFAULT, checks.label),
        _computed("klass", lambda qube: qube.klass),
        _computed("icon", defaults.icon),
    ]


def _network() -> list[Property]:
    return [
        Property("mac", default="00:16:3e:5e:6c:00", check=checks.mac),
        Property("ip", "ipv4", addresses.ip),
        Property("ip6", "ipv6", addresses.ip6),
        _qube("netvm", lambda qube: qube.machine.get("default_netvm"), check=checks.netvm),
        Property("provides_network", "bool", False, checks.provides_network),
        _computed("visible_ip", addresses.visible_ip),
        _computed("visible_ip6", addresses.visible_ip6),
        _computed("visible_gateway", addresses.visible_gateway),
        _computed("visible_gateway6", addresses.visible_gateway6),
        _computed("visible_netmask", addresses.visible_netmask),
        _computed("gateway", addresses.gateway),
        _computed("gateway6", addresses.gateway6),
        _computed("dns", addresses.dns),
    ]


def _devices_denied(release: Release) -> list[Property]:
    if not release.device_policy:
        return []
    return [Property("devices_denied", default="", check=checks.device_interfaces)]


def _any_local_qube(release: Release) -> list[Property]:
    """What every qube of this machine has that is not dom0."""
    inherited = defaults.from_template
    readonly_int = "int" if release.typed_readonly else "str"
    properties = [
        *_base(release),
        *_network(),
        *_devices_denied(release),
        _qube("guivm", lambda qube: qube.machine.get("default_guivm")),
        _qube("audiovm", lambda qube: qube.machine.get("default_audiovm")),
        Property("virt_mode", default=inherited("virt_mode", "pvh"), check=checks.virt_mode),
        Property("installed_by_rpm", "bool", False),
        Property("memory", "int", inherited("memory", 400), checks.positive),
        Property("maxmem", "int", defaults.maxmem, checks.not_negative),
        Property("stubdom_mem", "int", None, checks.positive),
        Property("vcpus", "int", inherited("vcpus", 2), checks.positive),
        Property(
            "kernel",
            default=inherited("kernel", lambda qube: qube.machine.get("default_kernel")),
            check=checks.kernel,
        ),
        Property(
            "kernelopts", default=defaults.kernelopts, check=checks.kernelopts, references=True
        ),
        Property("debug", "bool", False),
        Property("default_user", default=inherited("default_user", "user"), check=checks.user),
        Property("qrexec_timeout", "int", defaults.timeout("qrexec_timeout"), checks.positive),
        Property("shutdown_timeout", "int", defaults.timeout("shutdown_timeout"), checks.positive),
        Property("autostart", "bool", False),
        Property("include_in_backups", "bool", True),
        Property("backup_timestamp", "int", None),
        _qube("default_dispvm", lambda qube: qube.machine.get("default_dispvm")),
        _qube(
            "management_dispvm",
            inherited("management_dispvm", lambda qube: qube.machine.get("management_dispvm")),
        ),
        Property("updateable", "bool", lambda qube: qube.template is None, read_only=True),
        Property("keyboard_layout", default=defaults.keyboard, check=checks.keyboard),
        _computed("xid", lambda qube: qube.data["xid"] if qube.running else -1, readonly_int),
        _computed("stubdom_xid", lambda qube: -1, readonly_int),
        _computed("start_time", lambda qube: _today(qube.machine) if qube.running else None),
    ]
    if release.device_policy:
        properties.append(_computed("stubdom_uuid", lambda qube: ""))
    if release.bootmodes:
        properties.append(Property("bootmode", default=defaults.bootmode, references=True))
    return properties


def _today(machine) -> str:
    """When it began: whoever runs was started then.  A qube's state does not have the time."""
    return f"{machine.now() // 86400 * 86400:.2f}"


def _template_for_disposables() -> Property:
    return Property("template_for_dispvms", "bool", False)


def _app(release: Release) -> list[Property]:
    return [
        *_any_local_qube(release),
        _template_for_disposables(),
        _qube("template", NO_DEFAULT, classes=frozenset({"TemplateVM"}), none_allowed=False),
    ]


def _standalone(release: Release) -> list[Property]:
    return [*_any_local_qube(release), _template_for_disposables()]


def _template(release: Release) -> list[Property]:
    properties = [*_any_local_qube(release), _qube("netvm", None, check=checks.netvm)]
    if release.bootmodes:
        properties.append(
            Property("appvm_default_bootmode", default=defaults.children_bootmode, references=True)
        )
    return properties


def _disposable(release: Release) -> list[Property]:
    properties = [
        *_any_local_qube(release),
        _qube("template", NO_DEFAULT, check=checks.disposable_template, none_allowed=False),
        Property("dispid", "int", NO_DEFAULT, write_once=True, copied=False),
        Property("auto_cleanup", "bool", False),
        Property("include_in_backups", "bool", lambda qube: not qube.get("auto_cleanup")),
        _qube("default_dispvm", lambda qube: qube.get("template")),
    ]
    if release.preload:
        properties.append(_computed("is_preload", lambda qube: qube.preloaded, "bool"))
    return properties


def _admin(release: Release) -> list[Property]:
    return [
        *_base(release),
        *_devices_denied(release),
        Property("name", default="dom0", read_only=True),
        Property("qid", "int", 0, read_only=True),
        Property("uuid", default="00000000-0000-0000-0000-000000000000", read_only=True),
        _computed("icon", lambda qube: "adminvm-black"),
        _qube("default_dispvm", lambda qube: qube.machine.get("default_dispvm")),
        Property("include_in_backups", "bool", True),
        Property("updateable", "bool", True, read_only=True),
        Property("keyboard_layout", default="us++", check=checks.keyboard),
    ]


def _remote(release: Release) -> list[Property]:
    return [
        *_base(release),
        Property("include_in_backups", "bool", False),
        _qube("relayvm", None),
        Property("transport_rpc", default=None),
        Property("remote_name", default=None),
    ]


def _global(release: Release) -> list[Property]:
    def pool(name: str, default):
        return Property(name, default=default, check=checks.pool)

    def default_pool(machine):
        return machine.get("default_pool")

    return [
        Property("default_guivm", "vm", "dom0"),
        Property("default_audiovm", "vm", "dom0"),
        Property("default_netvm", "vm", None, checks.default_netvm),
        Property("default_template", "vm", NO_DEFAULT, classes=frozenset({"TemplateVM"})),
        Property("updatevm", "vm", None),
        Property("clockvm", "vm", None),
        Property("default_kernel", default=NO_DEFAULT, check=checks.installed_kernel),
        Property("default_dispvm", "vm", None),
        Property("management_dispvm", "vm", None),
        pool("default_pool", "varlibqubes"),
        *(pool(f"default_pool_{n}", default_pool) for n in ("private", "root", "volatile")),
        pool("default_pool_kernel", default_pool),
        Property("default_qrexec_timeout", "int", 60),
        Property("default_shutdown_timeout", "int", 60),
        Property("stats_interval", "int", 3),
        Property("check_updates_vm", "bool", True),
    ]


_CLASSES = {
    "AdminVM": _admin,
    "AppVM": _app,
    "DispVM": _disposable,
    "RemoteVM": _remote,
    "StandaloneVM": _standalone,
    "TemplateVM": _template,
    "global": _global,
}


@functools.cache
def of(release: Release, klass: str) -> dict[str, Property]:
    """Properties of *klass* by name, in listing order; a later line of the tables above wins."""
    by_name = {prop.name: prop for prop in _CLASSES[klass](release)}
    ordered = sorted(by_name.values(), key=lambda prop: prop._place)
    return {prop.name: prop for prop in ordered}
