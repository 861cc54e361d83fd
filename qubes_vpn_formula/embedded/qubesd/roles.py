# SPDX-License-Identifier: GPL-2.0-or-later
"""Roles that leave marks: network provider, clock, GUI and audio qubes, relays, default disposable.

Source: qubes/ext/{core_features,gui,audio,relay}.py and qubes/app.py of qubes-core-admin.
"""

from . import features, qubesdb, tags
from .errors import AdminError, Missing
from .events import fire, on
from .machine import DISPOSABLE_TEMPLATES, QUBES

_GLOBAL = frozenset({"global"})


@on("set:provides_network")
def _mark_provider(qube, new, old):
    if new:
        features.assign(qube, "servicevm", "1")
    elif "servicevm" in qube.features:
        features.delete(qube, "servicevm")


@on("reset:provides_network")
def _mark_provider_after_reset(qube, old):
    _mark_provider(qube, qube.get("provides_network"), old)


@on("pre-set:clockvm")
def _start_clock(machine, new, old):
    if new is not None and "service.clocksync" not in machine.qube(new).features:
        features.assign(machine.qube(new), "service.clocksync", "1")


@on("set:clockvm")
def _stop_old_clock(machine, new, old):
    before = machine.find(old)
    if before is not None and old != new and before.features.get("service.clocksync"):
        features.delete(before, "service.clocksync")


@on("set:default_dispvm", classes=_GLOBAL)
def _announce_default_disposable(machine, new, old):
    """R4.3 asks old and new template for their preload settings, whatever class they are of."""
    if not machine.release.preload or machine.get("default_dispvm") == old:
        return
    for qube in (machine.find(old), machine.find(machine.get("default_dispvm"))):
        if qube is not None and qube.klass not in DISPOSABLE_TEMPLATES:
            raise Missing("preload settings of " + qube.name)


@on("reset:default_dispvm", classes=_GLOBAL)
def _announce_default_disposable_reset(machine, old):
    _announce_default_disposable(machine, machine.get("default_dispvm"), old)


def _follow(role: str):
    """Keep the tag ROLE-NAME of each qube at its *role* property."""
    prefix = role + "-"

    @on("created", classes=QUBES)
    def mark_new(qube):
        name = qube.get(role)
        if name is not None and prefix + name not in qube.tags:
            tags.replace(qube, prefix, name)

    @on("set:" + role)
    def mark(qube, new, old):
        tags.replace(qube, prefix, new)

    @on("reset:" + role)
    def mark_after_reset(qube, old):
        tags.replace(qube, prefix, qube.get(role))

    @on("set:default_" + role)
    def mark_followers(machine, new, old):
        for qube in machine.qubes():
            if qube.klass in QUBES and qube.is_default(role):
                fire("set:" + role, qube, new, old)


_follow("guivm")
_follow("audiovm")


@on("set:relayvm")
def _mark_relay(qube, new, old):
    tags.replace(qube, "relayvm-", new)
    relay = qube.machine.find(new)
    if relay is not None and relay.running:
        qubesdb.write(relay, "/remote/" + qube.name, qube.get("remote_name") or qube.name)


@on("start")
def _name_remote_qubes(relay):
    for qube in relay.machine.qubes():
        if qube.get_or("relayvm") == relay.name:
            qubesdb.write(relay, "/remote/" + qube.name, qube.get("remote_name") or qube.name)


@on("reset:relayvm")
def _mark_relay_after_reset(qube, old):
    _mark_relay(qube, qube.get("relayvm"), old)


def _running_users(qube, role: str):
    """Running qubes that *qube* serves in *role*; a guivm counts itself, an audiovm does not."""
    for user in qube.machine.qubes():
        itself = user == qube and role == "audiovm"
        if user.running and not itself and user.get_or(role) == qube.name:
            yield user


@on("pre-shutdown")
def _refuse_shutdown_in_role(qube, force):
    if force:
        return
    for role, error in (
        ("audiovm", qube.machine.release.shutdown_in_use),
        ("guivm", "QubesVMError"),
    ):
        users = [user.name for user in _running_users(qube, role)]
        if users:
            raise AdminError(error, f"{qube} is the {role} of running qubes: {', '.join(users)}")


@on("set:audiovm")
def _point_to_audio(qube, new, old):
    if not qube.running:
        return
    audiovm = qube.machine.find(new)
    if audiovm is None:
        qubesdb.remove(qube, "/qubes-audio-domain-xid")
    elif audiovm.running and audiovm != qube:
        qubesdb.write(qube, "/qubes-audio-domain-xid", str(audiovm.data["xid"]))


@on("set:keyboard_layout")
def _type_differently(qube, new, old):
    if new != old and qube.running and qube.klass in QUBES:
        qubesdb.write(qube, "/keyboard-layout", new)


@on("qdb-create", classes=QUBES)
def _write_gui(qube):
    _point_to_audio(qube, qube.get("audiovm"), None)
    guivm = qube.machine.find(qube.get("guivm"))
    if qube.machine.release.strict_features:
        enabled = guivm is not None and bool(qube.features.get("gui", True))
        qubesdb.write(qube, "/qubes-gui-enabled", str(enabled))
    if guivm is not None and guivm != qube:
        qubesdb.write(qube, "/keyboard-layout", qube.get("keyboard_layout"))
        if guivm.running:
            qubesdb.write(qube, "/qubes-gui-domain-xid", str(guivm.data["xid"]))


@on("start")
def _tell_role_users(qube):
    for role, path in (("audiovm", "/qubes-audio-domain-xid"), ("guivm", "/qubes-gui-domain-xid")):
        for user in _running_users(qube, role):
            qubesdb.write(user, path, str(qube.data["xid"]))
