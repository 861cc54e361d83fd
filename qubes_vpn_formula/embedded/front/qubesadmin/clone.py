# SPDX-License-Identifier: GPL-2.0-or-later
"""Cloning, which is the client's work: qubesd only makes an empty qube and copies volumes.

The order of the calls is the real client's (qubesadmin/app.py of qubes-core-admin-client 4.3.34,
and 4.2.18 for a machine of release 4.2), run by root in dom0.
"""

import contextlib
import logging
from collections.abc import Collection, Iterator
from typing import Any

from . import exc

# The new qube has these of its own.
_NOT_COPIED = ("name", "qid", "template", "label", "uuid", "installed_by_rpm")


def clone(
    app: Any,
    src_vm: Any,
    new_name: str,
    new_cls: str,
    pools: dict[str, str] | None = None,
    ignore_errors: bool = False,
    ignore_volumes: Collection[str] = (),
    ignore_devices: bool = False,
) -> Any:
    """Makes `new_name` a copy of `src_vm`.

    pools: volume -> pool for the copy; without it the source's are asked for.

    Copied: non-default properties, tags, features, notes, firewall, volumes. An error removes the
    new qube again; with `ignore_errors` only one of copying volumes does. Another exception leaves
    it half made; with `app.cache_enabled` there always is one (AttributeError), before the volumes.
    """
    template = getattr(src_vm, "template", None)
    label = src_vm.label
    if pools is None:
        pools = dict(_other_pools(app, src_vm, ignore_volumes))
    dst_vm = app._create(new_cls, template and str(template), new_name, label, pools)
    try:
        _copy_settings(app, src_vm, dst_vm, ignore_errors)
    except exc.QubesException:
        if not ignore_errors:
            del app.domains[dst_vm.name]
            raise
    try:
        _copy_volumes(src_vm, dst_vm, ignore_volumes)
    except exc.QubesException:
        del app.domains[dst_vm.name]
        raise
    if not ignore_devices:
        _ask_for_devices(app, src_vm)
    return dst_vm


def _other_pools(
    app: Any, src_vm: Any, ignore_volumes: Collection[str]
) -> Iterator[tuple[str, str]]:
    """(volume, pool) where the source keeps a volume in another pool than the machine's default."""
    for volume in sorted(src_vm.volumes.values()):
        if volume.snap_on_start or not volume.rw or volume.name in ignore_volumes:
            continue
        default = getattr(app, f"default_pool_{volume.name}", volume.pool)
        if default != volume.pool:
            yield volume.name, volume.pool


def _copy_settings(app: Any, src_vm: Any, dst_vm: Any, ignore_errors: bool) -> None:
    def copying(what: str) -> contextlib.AbstractContextManager:
        return _logged(dst_vm.log, what, ignore_errors)

    for name in src_vm.property_list():
        if name not in _NOT_COPIED and not src_vm.property_is_default(name):
            with copying(f"property {name}"), contextlib.suppress(AttributeError):
                setattr(dst_vm, name, getattr(src_vm, name))
    for tag in src_vm.tags:
        if not tag.startswith("created-by-"):
            with copying(f"tag {tag}"):
                dst_vm.tags.add(tag)
    for name, value in src_vm.features.items():
        if _copies_feature(app, name):
            with copying(f"feature {name}"):
                dst_vm.features[name] = value
    if not app._is_4_2:
        with copying("notes"):
            _copy_notes(src_vm, dst_vm)
    with copying("firewall"):
        dst_vm.firewall.save_rules(src_vm.firewall.rules)
    # The menu is made by a program run as dom0's user, whose name root asks for here. Property by
    # property, qubesd answers that dom0 has none, which the client expects; from the cache comes a
    # plain AttributeError, which it does not.
    with contextlib.suppress(KeyError, exc.QubesException):
        _ = app.domains["dom0"].default_user


@contextlib.contextmanager
def _logged(log: logging.Logger, what: str, ignore_errors: bool) -> Iterator[None]:
    try:
        yield
    except exc.QubesException as error:
        log.error("%s could not be copied: %s", what, error)
        if not ignore_errors:
            raise


def _copies_feature(app: Any, name: str) -> bool:
    """All but what belongs to the source's own preloaded disposables, which 4.2 does not know."""
    return app._is_4_2 or name == "preload-dispvm-max" or not name.startswith("preload-dispvm")


def _copy_notes(src_vm: Any, dst_vm: Any) -> None:
    notes = src_vm.get_notes()
    if notes:
        dst_vm.set_notes(notes)


def _copy_volumes(src_vm: Any, dst_vm: Any, ignore_volumes: Collection[str]) -> None:
    for volume in sorted(dst_vm.volumes.values()):
        if volume.save_on_stop and volume.name not in ignore_volumes:
            volume.clone(src_vm.volumes[volume.name])


def _ask_for_devices(app: Any, src_vm: Any) -> None:
    """The calls that find assigned devices.

    An embedded Qubes has none, so there is nothing to copy.
    """
    for device_class in app.list_deviceclass():
        src_vm.qubesd_call(
            None, f"admin.vm.device.{device_class}.{'List' if app._is_4_2 else 'Assigned'}"
        )
