# SPDX-License-Identifier: GPL-2.0-or-later
"""What qubesd writes into the QubesDB of a running qube."""

from collections.abc import Iterator

from . import addresses
from .errors import Missing
from .events import fire, on
from .machine import QUBES


def write(qube, path: str, value: str) -> None:
    """Write one entry; a qube that is off has no QubesDB."""
    _entries(qube)[path] = value


def remove(qube, path: str) -> None:
    """Remove one entry, or a tree of them when *path* ends with a slash."""
    entries = _entries(qube)
    for entry in [e for e in entries if e == path or (path[-1] == "/" and e.startswith(path))]:
        del entries[entry]


def _entries(qube) -> dict[str, str]:
    if not qube.running:
        raise Missing(f"QubesDB of {qube.name}")
    return qube.data["qubesdb"]


def create(qube) -> None:
    """Write all entries of a qube that starts or whose network changes."""
    for facts in (_own_facts, _provider_facts, _client_facts):
        for path, value in facts(qube):
            write(qube, path, value)
    fire("qdb-create", qube)
    fire("qdb-clients", qube)
    if qube.klass == "DispVM":
        write(qube, "/qubes-vm-persistence", "none")


def _user(qube) -> str:
    mode = qube.get_or("bootmode", "default")
    special = qube.feature("boot-mode.default-user." + mode) if mode != "default" else None
    return special or qube.get("default_user")


def _own_facts(qube) -> Iterator[tuple[str, str]]:
    updateable = qube.get("updateable")
    yield "/name", qube.name
    yield "/type", qube.klass
    yield "/default-user", _user(qube)
    yield "/qubes-vm-updateable", str(updateable)
    yield "/qubes-vm-persistence", "full" if updateable else "rw-only"
    yield "/qubes-debug-mode", str(int(qube.get("debug")))
    yield "/qubes-base-template", qube.template.name if qube.template else ""
    yield "/qubes-block-devices", ""
    yield "/qubes-usb-devices", ""


def _provider_facts(qube) -> Iterator[tuple[str, str]]:
    if not qube.get("provides_network"):
        return
    yield "/qubes-netvm-network", str(qube.get("gateway"))
    yield "/qubes-netvm-gateway", str(qube.get("gateway"))
    if gateway6 := qube.get("gateway6"):
        yield "/qubes-netvm-gateway6", gateway6
    yield "/qubes-netvm-netmask", str(addresses.netmask(qube))
    yield from _dns("/qubes-netvm")


def _client_facts(qube) -> Iterator[tuple[str, str]]:
    if qube.netvm is None:
        return
    yield "/qubes-mac", qube.get("mac")
    yield "/qubes-ip", str(qube.get("visible_ip"))
    yield "/qubes-netmask", str(qube.get("visible_netmask"))
    yield "/qubes-gateway", str(qube.get("visible_gateway"))
    yield from _dns("/qubes")
    if ip6 := qube.get("visible_ip6"):
        yield "/qubes-ip6", ip6
    if gateway6 := qube.get("visible_gateway6"):
        yield "/qubes-gateway6", gateway6


def _dns(prefix: str) -> Iterator[tuple[str, str]]:
    primary, secondary = addresses.DNS
    yield f"{prefix}-primary-dns", primary
    yield f"{prefix}-secondary-dns", secondary


@on("qdb-create", classes=QUBES)
def _vm_type(qube):
    if qube.klass == "TemplateVM":
        kind = "TemplateVM"
    elif qube.get("provides_network"):
        kind = "NetVM" if qube.netvm is None else "ProxyVM"
    else:
        kind = "AppVM"
    write(qube, "/qubes-vm-type", kind)
    write(qube, "/qubes-iptables-error", "")
