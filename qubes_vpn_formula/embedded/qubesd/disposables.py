# SPDX-License-Identifier: GPL-2.0-or-later
"""Disposables: made when asked for, or preloaded (R4.3): started, paused and kept for later.

Here preloading takes no time. What was used or discarded is made anew only when asked for, and not
some seconds later, as in reality. Source: qubes/vm/dispvm.py, qubes/vm/mix/dvmtemplate.py of
qubes-core-admin 4.3.50.
"""

from . import lifecycle, network, power, tags
from .errors import AdminError, EmptyAnswer, enforce, value_error
from .events import on
from .machine import DISPOSABLE_TEMPLATES, PRELOADED
from .method import method

_MAX = "preload-dispvm-max"
#: what a template's qubes have to offer for preloading
_NEEDED = ("qrexec", "supported-rpc.qubes.WaitForRunningSystem")


@method("admin.vm.CreateDisposable", payload=True, writes=True)
def _create(request):
    if request.machine.release.preload:
        enforce(request.arg in ("", "preload"))
        if request.payload not in (b"", b"uuid"):
            raise value_error("payload must be empty or 'uuid'")
    else:
        enforce(not request.payload and not request.arg)
    template = request.dest
    if template.name == "dom0":
        template = request.machine.find(template.get("default_dispvm"))
    if request.arg == "preload":
        return _preload_call(template)
    if template is None or not template.get_or("template_for_dispvms", False):
        raise AdminError("QubesException", f"{template} does not have template_for_dispvms=True")
    qube = _use_preloaded(template) or _make(template)
    tags.add(qube, "created-by-dom0")
    tags.add(qube, "disp-created-by-dom0")
    return "uuid:" + qube.get("uuid") if request.payload else qube.name


def _make(template):
    return lifecycle.make(template.machine, "DispVM", None, None, template, auto_cleanup=True)


def _preload_call(template) -> None:
    if template is None or template.klass == "AdminVM":
        raise EmptyAnswer
    if template.klass in DISPOSABLE_TEMPLATES:
        check_support(template)
        _fill(template)


def check_support(template) -> None:
    """Refuses preloading where a template's qubes cannot say that they are up."""
    for feature in _NEEDED:
        if not template.feature(feature):
            raise value_error(f"{template} does not support preloading: no feature {feature}")


@on("feature-set", classes=DISPOSABLE_TEMPLATES)
def _follow_maximum(template, feature, value):
    if feature == _MAX and template.machine.release.preload:
        _discard(template, template.preloads()[_wanted(template) :])
        _fill(template)


@on("feature-delete", classes=DISPOSABLE_TEMPLATES)
def _discard_all(template, feature):
    if feature == _MAX and template.machine.release.preload:
        _discard(template, template.preloads())


def _wanted(template) -> int:
    return int(template.features.get(_MAX) or 0)


def _fill(template) -> None:
    for _ in range(_wanted(template) - len(template.preloads())):
        qube = _make(template)
        template.features[PRELOADED] = " ".join([*template.preloads(), qube.name])
        qube.features["internal"] = "1"
        power.start(qube)
        qube.data["power"] = "Paused"
        qube.features["preload-dispvm-completed"] = "1"


def _forget(qube) -> None:
    template = qube.template
    template.features[PRELOADED] = " ".join(
        name for name in template.preloads() if name != qube.name
    )


def _discard(template, names) -> None:
    for name in names:
        qube = template.machine.qube(name)
        _forget(qube)
        power.halt(qube)


@on("shutdown", classes=frozenset({"DispVM"}))
def _forget_what_is_off(qube):
    if qube.preloaded:
        _forget(qube)


def _outdated(qube) -> bool:
    """Here the netvm stands for all the properties that a disposable takes over."""
    return qube.get("netvm") != qube.template.get("netvm")


def _refresh(template) -> None:
    if not template.preloads():
        return
    outdated = [name for name in template.preloads() if _outdated(template.machine.qube(name))]
    _discard(template, outdated)


@on("set:netvm", classes=DISPOSABLE_TEMPLATES)
def _refresh_after_change(template, new, old):
    _refresh(template)


def _use_preloaded(template):
    for name in template.preloads():
        qube = template.machine.qube(name)
        if _outdated(qube):
            _discard(template, [name])
            continue
        _resume(qube)
        return qube
    return None


def _resume(qube) -> None:
    qube.data["power"] = "Running"
    _use(qube)


@on("unpaused", classes=frozenset({"DispVM"}))
def _use(qube) -> None:
    """It is an ordinary disposable from here on, and only now its netvm is the new one."""
    if not qube.preloaded:
        return
    _forget(qube)
    qube.features.pop("internal", None)
    network.apply_deferred(qube)
