# SPDX-License-Identifier: GPL-2.0-or-later
"""Features of qubes; admin.vm.feature.*"""

import re

from .errors import AdminError, enforce, value_error
from .events import fire
from .method import method
from .names import ascii_text

_NAME = re.compile(r"[a-zA-Z0-9_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
#: only qubesd itself may set these (R4.3)
_INTERNAL = (
    "deferred-netvm-original",
    "preload-dispvm",
    "preload-dispvm-completed",
    "preload-dispvm-in-progress",
)


def assign(qube, name: str, value: str) -> None:
    """Set a feature. Some checks run before it is stored, some after: then it stays stored."""
    fire("feature-pre-set", qube, name, value)
    qube.features[name] = value
    fire("feature-set", qube, name, value)


def delete(qube, name: str) -> None:
    """Remove a feature that is set."""
    del qube.features[name]
    fire("feature-delete", qube, name)


def _not_found(request) -> AdminError:
    return AdminError("QubesFeatureNotFoundError", f"{request.dest} has no feature {request.arg}")


def _present(request, value):
    if value is None:
        raise _not_found(request)
    return value


@method("admin.vm.feature.List", no_arg=True)
def _list(request):
    return "".join(f"{name}\n" for name in request.dest.features)


@method("admin.vm.feature.Get")
def _get(request):
    return _present(request, request.dest.features.get(request.arg))


@method("admin.vm.feature.CheckWithTemplate")
def _with_template(request):
    return _present(request, request.dest.feature(request.arg))


@method("admin.vm.feature.CheckWithNetvm")
def _with_netvm(request):
    return _present(request, request.dest.feature(request.arg, through="netvm"))


def _of_dom0(request):
    return request.machine.qube("dom0").features.get(request.arg)


@method("admin.vm.feature.CheckWithAdminVM")
def _with_dom0(request):
    return _present(request, request.dest.features.get(request.arg, _of_dom0(request)))


@method("admin.vm.feature.CheckWithTemplateAndAdminVM")
def _with_template_and_dom0(request):
    return _present(request, request.dest.feature(request.arg, default=_of_dom0(request)))


def _refuse_internal(request) -> None:
    if request.machine.release.strict_features:
        enforce(request.arg not in _INTERNAL)


@method("admin.vm.feature.Set", payload=True, writes=True)
def _set(request):
    value = ascii_text(request.payload)
    if request.machine.release.strict_features:
        if not _NAME.fullmatch(request.arg):
            raise value_error("feature name has illegal characters")
        if not _VALUE.fullmatch(value):
            raise value_error(f"value of feature {request.arg} has illegal characters")
    _refuse_internal(request)
    assign(request.dest, request.arg, value)


@method("admin.vm.feature.Remove", writes=True)
def _remove(request):
    _refuse_internal(request)
    if request.arg not in request.dest.features:
        raise _not_found(request)
    delete(request.dest, request.arg)
