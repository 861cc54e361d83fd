# SPDX-License-Identifier: GPL-2.0-or-later
"""Couplings between templates, disposable templates and disposables.

The checks of the features of preloading are here, which a template passes only with a service that
none has from the start. Source: qubes/vm/{appvm,dispvm,adminvm}.py and qubes/vm/mix/dvmtemplate.py
of qubes-core-admin.
"""

from . import disposables, volumes
from .errors import AdminError, value_error
from .events import fire, on
from .machine import DISPOSABLE_TEMPLATES

_BASED = frozenset({"AppVM", "DispVM"})
_ADMIN = frozenset({"AdminVM"})


@on("pre-reset:template", classes=_BASED)
def _keep_template(qube, old):
    raise value_error(f"template of {qube} cannot be unset, only set to another one")


@on("pre-set:template", classes=_BASED)
def _change_template_while_off(qube, new, old):
    if qube.running:
        raise AdminError("QubesVMNotHaltedError", f"{qube} is running, its template cannot change")
    if qube.klass != "AppVM":
        return
    if qube.machine.release.preload:
        if not qube.get("template_for_dispvms") or new == old:
            return
        error = "QubesVMInUseError"
    else:
        error = "QubesVMNotHaltedError"
    if any(disposable.running for disposable in qube.disposables()):
        raise AdminError(error, f"disposables based on {qube} are running")


@on("set:template", classes=_BASED)
def _new_snapshots(qube, new, old):
    volumes.follow_template(qube)


@on("pre-set:template_for_dispvms")
def _keep_disposable_template(qube, new, old):
    if new or (qube.machine.release.preload and not old):
        return
    if any(qube.disposables()):
        raise AdminError("QubesVMInUseError", f"there are disposables based on {qube}")


@on("pre-reset:template_for_dispvms")
def _keep_disposable_template_at_reset(qube, old):
    _keep_disposable_template(qube, False, old)


@on("feature-pre-set", classes=DISPOSABLE_TEMPLATES)
def _check_preload(qube, feature, value):
    if not qube.machine.release.preload:
        return
    if feature == "preload-dispvm-max":
        disposables.check_support(qube)
        if value and not value.isdigit():
            raise value_error("preload-dispvm-max is not a number")
    if feature == "preload-dispvm-delay":
        _check_delay(qube, value)


def _check_delay(qube, value: str) -> None:
    try:
        float(value or 0)
    except ValueError:
        raise value_error("preload-dispvm-delay is not a number") from None


@on("feature-pre-set", classes=_ADMIN)
def _check_global_preload(dom0, feature, value):
    if not dom0.machine.release.preload:
        return
    if feature == "preload-dispvm-threshold" and value and not value.isdigit():
        raise value_error("preload-dispvm-threshold is not a number")
    if feature == "preload-dispvm-delay":
        _check_delay(dom0, value)
    if feature == "preload-dispvm-max" and value != dom0.features.get(feature):
        template = dom0.machine.find(dom0.machine.get("default_dispvm"))
        if template is not None:
            fire("feature-pre-set", template, feature, value)
