# SPDX-License-Identifier: GPL-2.0-or-later
"""Defaults that depend on other values: the template's, the machine's, features."""

from .errors import EmptyAnswer, Missing

_DEFAULT_MAXMEM = 4000  # MB
#: MB of memory that the machine has
HOST_MEMORY = 16384
_KEYBOARD = "us++"
_KERNELOPTS = "swiotlb=2048"


def from_template(name: str, default):
    """A default that is the template's value, or *default* (a value or a function) without one."""

    def value(qube):
        template = qube.template
        if template is not None:
            try:
                return template.get(name)
            except Missing:
                pass
        return default(qube) if callable(default) else default

    return value


def timeout(name: str):
    return from_template(name, lambda qube: qube.machine.get("default_" + name))


def icon(qube) -> str:
    label = qube.get("label")
    if qube.klass == "AppVM" and qube.get("template_for_dispvms"):
        return "templatevm-" + label
    if qube.klass != "TemplateVM" and qube.features.get("servicevm"):
        return "servicevm-" + label
    return f"{qube.klass.lower()}-{label}"


def keyboard(qube) -> str:
    """The guivm's layout. Where guivms refer to each other in a circle, qubesd crashes."""
    passed = set()
    while qube.klass != "AdminVM" and qube.is_default("keyboard_layout"):
        if qube in passed:
            raise EmptyAnswer
        passed.add(qube)
        qube = qube.machine.find(qube.get("guivm"))
        if qube is None:
            return _KEYBOARD
    return qube.stored.get("keyboard_layout", _KEYBOARD)


def kernelopts(qube) -> str:
    if not qube.get("kernel"):
        return ""
    return from_template("kernelopts", _KERNELOPTS)(qube)


def maxmem(qube) -> int:
    """MB; 0 when memory balancing cannot work."""
    if not _balancing_possible(qube):
        return 0
    limit = qube.get("memory") * 10 if qube.features.get("os") == "Linux" else _DEFAULT_MAXMEM
    return from_template("maxmem", min(limit, HOST_MEMORY // 2))(qube)


def _balancing_possible(qube) -> bool:
    if qube.get("virt_mode") != "hvm":
        return True
    services = False
    seen = qube
    while seen is not None:
        services = services or any(f.startswith("supported-service.") for f in seen.features)
        seen = seen.template
    if not qube.feature("qrexec"):
        return False
    return not services or bool(qube.feature("supported-service.meminfo-writer"))


def bootmode(qube) -> str:
    active = qube.features.get("boot-mode.active")
    if active is not None and _known_bootmode(qube, active):
        return active
    subject = qube
    while subject.template is not None:
        template = subject.template
        mode = template.get_or("appvm_default_bootmode")
        if mode is not None and _known_bootmode(subject, mode):
            return mode
        subject = template
    return "default"


def _known_bootmode(qube, mode: str) -> bool:
    return mode == "default" or qube.feature("boot-mode.kernelopts." + mode) is not None


def children_bootmode(template) -> str:
    return template.features.get("boot-mode.appvm-default", "default")
