# SPDX-License-Identifier: GPL-2.0-or-later
"""What qubesd writes into the QubesDB of a running qube."""

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
    updateable = qube.get("updateable")
    facts = {
        "/name": qube.name,
        "/type": qube.klass,
        "/default-user": _user(qube),
        "/qubes-vm-updateable": str(updateable),
        "/qubes-vm-persistence": "full" if updateable else "rw-only",
        "/qubes-debug-mode": str(int(qube.get("debug"))),
        "/qubes-base-template": qube.template.name if qube.template else "",
        **_provider_facts(qube),
        **_client_facts(qube),
        "/qubes-block-devices": "",
        "/qubes-usb-devices": "",
    }
    for path, value in facts.items():
        write(qube, path, value)
    fire("qdb-create", qube)
    fire("qdb-clients", qube)
    if qube.klass == "DispVM":
        write(qube, "/qubes-vm-persistence", "none")


def _user(qube) -> str:
    mode = qube.get_or("bootmode", "default")
    special = qube.feature("boot-mode.default-user." + mode) if mode != "default" else None
    return special or qube.get("default_user")


def _dns(prefix: str) -> dict[str, str]:
    primary, secondary = addresses.DNS
    return {f"{prefix}-primary-dns": primary, f"{prefix}-secondary-dns": secondary}


def _provider_facts(qube) -> dict[str, str]:
    if not qube.get("provides_network"):
        return {}
    gateway6 = qube.get("gateway6")
    return {
        "/qubes-netvm-network": str(qube.get("gateway")),
        "/qubes-netvm-gateway": str(qube.get("gateway")),
        **({"/qubes-netvm-gateway6": gateway6} if gateway6 else {}),
        "/qubes-netvm-netmask": str(addresses.netmask(qube)),
        **_dns("/qubes-netvm"),
    }


def _client_facts(qube) -> dict[str, str]:
    if qube.netvm is None:
        return {}
    ip6, gateway6 = qube.get("visible_ip6"), qube.get("visible_gateway6")
    return {
        "/qubes-mac": qube.get("mac"),
        "/qubes-ip": str(qube.get("visible_ip")),
        "/qubes-netmask": str(qube.get("visible_netmask")),
        "/qubes-gateway": str(qube.get("visible_gateway")),
        **_dns("/qubes"),
        **({"/qubes-ip6": ip6} if ip6 else {}),
        **({"/qubes-gateway6": gateway6} if gateway6 else {}),
    }


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
