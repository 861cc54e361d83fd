# SPDX-License-Identifier: GPL-2.0-or-later
"""Features that reach the qube: service.*, vm-config.*, custom-persist.*

Source: qubes/ext/{services,vm_config,custom_persist}.py of qubes-core-admin.
"""

import base64
import hashlib
import posixpath

from . import features, properties, qubesdb
from .errors import value_error
from .events import on
from .machine import LOCAL, QUBES

_SERVICE = "service."
_CONFIG = "vm-config."
_PERSIST = "custom-persist."
_APP = "app-dispvm."
_MEMINFO = "service.meminfo-writer"
#: bytes of a service name that still fit into a QubesDB path
_LONGEST_SERVICE = 48
_LONGEST_CONFIG = 52
_LONGEST_PERSIST = 54


def _flag(value: str) -> str:
    return "1" if value else "0"


def _hashed(qube, name: str) -> bool:
    return qube.machine.release.app_dispvm_services and name.startswith(_APP)


@on("feature-pre-set", classes=LOCAL)
def _check_service(qube, feature, value):
    if not feature.startswith(_SERVICE):
        return
    name = feature.removeprefix(_SERVICE)
    if not name or "/" in name or name in (".", ".."):
        raise value_error(f"not a service name: {name!r}")
    if len(name) > _LONGEST_SERVICE and not _hashed(qube, name):
        raise value_error(f"service name is longer than {_LONGEST_SERVICE} bytes")


@on("feature-set", classes=LOCAL)
def _set_service(qube, feature, value):
    if feature == _MEMINFO:
        _translate_meminfo(qube, value)
    if qube.running and feature.startswith(_SERVICE):
        _write_service(qube, feature.removeprefix(_SERVICE), value)


def _translate_meminfo(qube, value: str) -> None:
    """The old switch for memory balancing acts on maxmem and goes away."""
    if qube.klass in QUBES:
        if value:
            properties.reset(qube, "maxmem")
        else:
            properties.assign(qube, properties.find(qube, "maxmem"), 0)
    features.delete(qube, _MEMINFO)


def _write_service(qube, name: str, value: str) -> None:
    if _hashed(qube, name):
        _write_app_dispvm(qube, name.removeprefix(_APP), value)
    if len(name) <= _LONGEST_SERVICE:
        qubesdb.write(qube, "/qubes-service/" + name, _flag(value))


def _write_app_dispvm(qube, app: str, value: str) -> None:
    digest = base64.urlsafe_b64encode(hashlib.sha256(app.encode()).digest())
    path = "/hash-app-dispvm/" + digest.decode().rstrip("=")
    if value:
        qubesdb.write(qube, path, app)
    else:
        qubesdb.remove(qube, path)


@on("feature-delete", classes=LOCAL)
def _delete_service(qube, feature):
    if not qube.running or not feature.startswith(_SERVICE) or feature == _MEMINFO:
        return
    name = feature.removeprefix(_SERVICE)
    if _hashed(qube, name):
        _write_app_dispvm(qube, name.removeprefix(_APP), "")
    qubesdb.remove(qube, "/qubes-service/" + name)


@on("qdb-create", classes=QUBES)
def _write_services(qube):
    for feature, value in qube.features.items():
        if feature.startswith(_SERVICE) and feature != _SERVICE:
            _write_service(qube, feature.removeprefix(_SERVICE), value)
    qubesdb.write(qube, "/qubes-service/meminfo-writer", _flag(qube.get("maxmem") > 0))


@on("qdb-create", classes=QUBES)
def _write_old_services(qube):
    """Names from before the service framework."""
    for feature, name in (
        ("service.ntpd", "ntpd"),
        ("check-updates", "qubes-update-check"),
        ("dvm", "qubes-dvm"),
        ("updates-proxy-setup", "yum-proxy-setup"),
    ):
        if feature in qube.features:
            qubesdb.write(qube, "/qubes-service/" + name, _flag(qube.features[feature]))


@on("feature-set", classes=LOCAL)
def _set_config(qube, feature, value):
    if not feature.startswith(_CONFIG):
        return
    name = feature.removeprefix(_CONFIG)
    if len(name) > _LONGEST_CONFIG or not name[:1].isalpha():
        raise value_error(f"not a vm-config name: {name!r}")
    if qube.running:
        qubesdb.write(qube, "/vm-config/" + name, value)


@on("feature-set", classes=LOCAL)
def _set_persist(qube, feature, value):
    if not qube.machine.release.custom_persist or not feature.startswith(_PERSIST):
        return
    name = feature.removeprefix(_PERSIST)
    _check_persist(name, value)
    if qube.running:
        qubesdb.write(qube, "/persist/" + name, value)


def _check_persist(name: str, value: str) -> None:
    if not 0 < len(name) <= _LONGEST_PERSIST:
        raise value_error(f"not a custom-persist name: {name!r}")
    path = value
    if not value.startswith("/"):
        kind, _, _, mode, path = (value.split(":", 4) + [""] * 5)[:5]
        if kind not in ("file", "dir") or not _octal_mode(mode):
            raise value_error(
                f"custom-persist must be a path or KIND:USER:GROUP:MODE:PATH: {value!r}"
            )
    if not posixpath.isabs(path):
        raise value_error(f"custom-persist path is not absolute: {value!r}")


def _octal_mode(text: str) -> bool:
    try:
        return 0 <= int(text, 8) <= 0o7777
    except ValueError:
        return False


@on("qdb-create", classes=QUBES)
def _write_config_and_persist(qube):
    for feature, value in qube.features.items():
        if feature.startswith(_CONFIG):
            qubesdb.write(qube, "/vm-config/" + feature.removeprefix(_CONFIG), value)
        elif feature.startswith(_PERSIST) and qube.machine.release.custom_persist:
            name = feature.removeprefix(_PERSIST)
            _check_persist(name, value)
            qubesdb.write(qube, "/persist/" + name, value)


@on("feature-delete", classes=LOCAL)
def _delete_config_and_persist(qube, feature):
    if not qube.running:
        return
    if feature.startswith(_CONFIG):
        qubesdb.remove(qube, "/vm-config/" + feature.removeprefix(_CONFIG))
    elif feature.startswith(_PERSIST) and qube.machine.release.custom_persist:
        qubesdb.remove(qube, "/persist/" + feature.removeprefix(_PERSIST))
