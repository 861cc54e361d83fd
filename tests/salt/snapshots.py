# SPDX-License-Identifier: GPL-2.0-or-later
"""An embedded Qubes as tests compare it: its state read from the file, without a call."""

from typing import Any

#: differ between two machines on which the same was done in another order
_INCIDENTAL = ("qid", "uuid", "dispid")


def netvms(snapshot: dict[str, Any]) -> dict[str, str | None]:
    """Every qube's netvm, inherited or its own; templates and dom0 are left out."""
    default = snapshot["globals"]["default_netvm"]
    return {
        name: qube["properties"].get("netvm", default)
        for name, qube in snapshot["qubes"].items()
        if qube["klass"] not in ("TemplateVM", "AdminVM")
    }


def own(snapshot: dict[str, Any], name: str) -> dict[str, Any]:
    """A qube's properties that have a value of their own."""
    return snapshot["qubes"][name]["properties"]


def in_clear(snapshot: dict[str, Any]) -> set[str]:
    """Names of the qubes whose packets reach sys-net past every tunnel.

    Tunnels are what is known as such from outside: sys-vpn and its likes, and Whonix' gateway.
    Service qubes count only as far as others hang on them.
    """
    wiring = netvms(snapshot)
    clients = [name for name in wiring if not name.startswith("sys-")]
    return {name for name in clients if _reaches_uplink(name, wiring)}


def way(name: str | None, wiring: dict[str, str | None]) -> list[str]:
    """Names from *name* upstream, by :func:`netvms`; none twice."""
    passed: list[str] = []
    while name is not None and name not in passed:
        passed.append(name)
        name = wiring.get(name)
    return passed


def _reaches_uplink(name: str, wiring: dict[str, str | None]) -> bool:
    _, *upstream = way(name, wiring)
    sheltered = any(netvm.startswith(("sys-vpn", "sys-whonix")) for netvm in upstream)
    return upstream[-1:] == ["sys-net"] and not sheltered


def compared(snapshot: dict[str, Any]) -> dict[str, Any]:
    """What two machines have to have in common to be the same for their user."""
    return {
        "globals": snapshot["globals"],
        "qubes": {
            name: {
                **{key: qube[key] for key in ("klass", "features", "notes", "power")},
                "tags": sorted(qube["tags"]),
                "rules": qube.get("rules"),
                "volumes": {
                    key: (volume["source"], volume["generation"] > 0)  # 0: nobody filled it
                    for key, volume in qube["volumes"].items()
                },
                "properties": _properties(qube),
            }
            for name, qube in snapshot["qubes"].items()
            if name != "dom0"
        },
    }


def _properties(qube: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in qube["properties"].items() if key not in _INCIDENTAL}
    if qube["klass"] == "TemplateVM" and found.get("netvm") is None:
        found.pop("netvm", None)  # what a template has by default
    return found


def put_back(embedded: Any, state: bytes) -> None:
    """Makes `state`, read from the state file earlier, the machine's again, with an empty log."""
    old = embedded.path.with_suffix(".old")  # its own: others may share the folder
    old.write_bytes(state)
    old.replace(embedded.path)  # a new file, by which the machine sees that there is another state
    embedded.forget_calls()
