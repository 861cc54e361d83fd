# SPDX-License-Identifier: GPL-2.0-or-later
"""What a change of netvm does: who may change when, links, firewall and addresses in QubesDB.

Source: qubes/vm/mix/net.py and qubes/app.py of qubes-core-admin.
"""

import contextlib

from . import checks, firewall, properties, qubesdb
from .errors import AdminError, EmptyAnswer, Missing, enforce
from .events import fire, on
from .machine import LOCAL

#: feature of a paused qube: its netvm before the change that waits for the qube to go on
DEFERRED = "deferred-netvm-original"


def tell_clients_addresses(netvm) -> None:
    """Refresh /connected-ips of *netvm*: addresses of all clients, running or not."""
    for family, path in (("", "/connected-ips"), ("6", "/connected-ips6")):
        ips = [client.get("visible_ip" + family) for client in _clients(netvm)]
        qubesdb.write(netvm, path, " ".join(ip for ip in ips if ip is not None))


def _clients(netvm):
    if not netvm.has_netvm:
        raise Missing("clients of " + netvm.name)
    return netvm.clients()


def reload_firewall(netvm, qube) -> None:
    """Write the firewall rules of *qube* into QubesDB of its netvm."""
    if not netvm.running:
        return
    for family in (4, 6):
        ip = qube.get("ip6" if family == 6 else "ip")
        if ip is None:
            continue
        base = f"/qubes-firewall/{ip}"
        qubesdb.remove(netvm, base + "/")
        for path, rule in firewall.qubesdb_entries(qube, family).items():
            qubesdb.write(netvm, f"{base}/{path}", rule)
        qubesdb.write(netvm, base, "")


def _map_addresses(netvm, qube) -> None:
    for name in ("visible-ip", "visible-gateway"):
        path = f"/mapped-ip/{qube.get('ip')}/{name}"
        value = qube.get(name.replace("-", "_"))
        if value:
            qubesdb.write(netvm, path, value)
        else:
            qubesdb.remove(netvm, path)


def attach(qube) -> None:
    """Give a running qube its link to its netvm."""
    _map_addresses(qube.netvm, qube)
    if not (qube.paused and qube.machine.release.defers_netvm_when_paused):
        qube.data["link"] = qube.netvm.name


def _detach(qube) -> None:
    if not qube.machine.release.defers_netvm_when_paused:
        qube.get("ip")  # R4.2 describes the link anew and has to find it like that
        enforce(qube.data["link"] == qube.get("netvm"))
    elif qube.paused:
        if DEFERRED not in qube.features and qube.data["link"] is not None:
            qube.features[DEFERRED] = qube.data["link"]
        return
    qube.data["link"] = None


@on("pre-set:netvm")
def _before_netvm(qube, new, old):
    if new is not None and qube.running and not qube.machine.qube(new).running:
        raise AdminError("QubesVMNotStartedError", f"cannot attach to stopped qube {new}")
    if qube.machine.release.defers_netvm_when_paused:
        if qube.paused:
            qube.features.setdefault(DEFERRED, old or "")
            return
        if DEFERRED in qube.features:
            if not qube.running:
                raise AdminError("QubesVMNotRunningError", f"{qube} is not running")
            _detach(qube)
            return
    if qube.netvm is not None and qube.running and qube.netvm.running:
        _detach(qube)


@on("set:netvm")
def _after_netvm(qube, new, old):
    before = qube.machine.find(old)
    if before is not None and before.running:
        tell_clients_addresses(before)
    if new is None:
        return
    netvm = qube.machine.qube(new)
    if netvm.running:
        tell_clients_addresses(netvm)
    if qube.running:
        qubesdb.create(qube)
        if not (qube.paused and qube.machine.release.defers_netvm_when_paused):
            attach(qube)
        reload_firewall(netvm, qube)


@on("pre-reset:netvm")
def _before_netvm_reset(qube, old):
    new = properties.default(qube, properties.find(qube, "netvm"))
    checks.netvm(qube, new)
    if new != old:
        fire("pre-set:netvm", qube, new, old)


@on("reset:netvm")
def _after_netvm_reset(qube, old):
    new = qube.get("netvm")
    if new != old:
        fire("set:netvm", qube, new, old)


def _followers(machine):
    return [qube for qube in machine.qubes() if qube.has_netvm and qube.is_default("netvm")]


@on("pre-set:default_netvm")
def _before_default_netvm(machine, new, old):
    for qube in _followers(machine):
        fire("pre-set:netvm", qube, new, old)


@on("set:default_netvm")
def _after_default_netvm(machine, new, old):
    for qube in _followers(machine):
        fire("reset:netvm", qube, old)


@on("firewall-changed", classes=LOCAL)
def _after_firewall(qube):
    if qube.running and qube.netvm:
        reload_firewall(qube.netvm, qube)


@on("pre-spawn")
def _before_spawn(qube):
    if qube.netvm:
        tell_clients_addresses(qube.netvm)
        _map_addresses(qube.netvm, qube)
        reload_firewall(qube.netvm, qube)


@on("qdb-clients")
def _announce_clients(qube):
    if qube.machine.release.netvm_flag_matters and not qube.get("provides_network"):
        return
    tell_clients_addresses(qube)
    for client in qube.clients():
        if client.running:
            _map_addresses(qube, client)
            reload_firewall(qube, client)


@on("start")
def _attach_clients(qube):
    if qube.netvm:
        reload_firewall(qube.netvm, qube)
    release = qube.machine.release
    if release.netvm_flag_matters and not qube.get("provides_network"):
        return
    for client in list(qube.clients()):
        if not client.running:
            continue
        if release.netvm_flag_matters and client.paused:
            continue
        if release.defers_netvm_when_paused and DEFERRED in client.features:
            apply_deferred(client)
        else:
            attach(client)


@on("pre-shutdown")
def _refuse_shutdown_in_use(qube, force):
    release = qube.machine.release
    if force or (release.netvm_flag_matters and not qube.get("provides_network")):
        return
    users = [client.name for client in qube.clients() if client.running and not client.preloaded]
    if users:
        raise AdminError(
            release.shutdown_in_use, f"{qube} is the netvm of running qubes: {', '.join(users)}"
        )


@on("shutdown")
def _detach_clients(qube):
    if qube.machine.release.defers_netvm_when_paused:
        qube.features.pop(DEFERRED, None)
    for client in list(qube.clients()):
        if client.running:
            with contextlib.suppress(EmptyAnswer):
                _detach(client)


@on("unpaused")
def _catch_up(qube):
    if qube.machine.release.defers_netvm_when_paused:
        apply_deferred(qube)


def apply_deferred(qube) -> None:
    """Carry out the change of netvm that a paused qube could not take part in."""
    if qube.preloaded:
        return
    old = qube.features.get(DEFERRED)
    if old is None or (qube.netvm and not qube.netvm.running):
        return
    fire("pre-set:netvm", qube, qube.get("netvm"), old or None)
    if qube.netvm:
        fire("set:netvm", qube, qube.get("netvm"), old or None)
    del qube.features[DEFERRED]
