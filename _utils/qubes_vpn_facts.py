# SPDX-License-Identifier: GPL-2.0-or-later
"""How the VPN or resolver qube that this runs in is doing: ``qubes_vpn_told.STATUS``.

Facts alone; what they mean, and what to do about it, dom0 knows (:mod:`qubes_vpn_doctor`).
"""

import importlib
import io
import os
import shutil
from pathlib import Path

import qubes_vpn_nft
import qubes_vpn_told
from qubes_vpn_loading import SERVICES
from qubes_vpn_nft import Failed

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
#: Where Qubes runs what users put there.
_SCRIPTS = Path("/rw/config")


def facts():
    """All of it, as plain data."""
    is_resolver = (SERVICES / "qubes-vpn-dns").exists() and not (SERVICES / "qubes-vpn").exists()
    role = "resolver" if is_resolver else "tunnel"
    found = {
        "role": role,
        "forwarding": _FORWARDING.read_text().strip() == "1",
        "custom_persist": (SERVICES / "custom-persist").exists(),
        "units": _units(),
        "scripts": _scripts(),
    }
    # What is for the other role, the template of this one need not have.
    return found | importlib.import_module(f"qubes_vpn_facts_{role}").facts()


def _units():
    """``{unit: state}``; ``unknown`` where systemd does not answer."""
    found = dict.fromkeys(qubes_vpn_told.UNITS, "unknown")
    names = [f"{unit}.service" for unit in found]
    try:
        said = qubes_vpn_nft.run("systemctl", "show", "--property=LoadState,ActiveState", *names)
    except Failed:
        return found
    for unit, block in zip(found, said.strip().split("\n\n"), strict=False):
        shown = dict(line.partition("=")[::2] for line in block.splitlines())
        state = shown.get("ActiveState", "unknown")
        known = state if state in qubes_vpn_told.UNIT_STATES else "activating"
        found[unit] = "absent" if shown.get("LoadState") == "not-found" else known
    return found


def _scripts():
    """How many of the user's own scripts do not do what they were written for."""
    found = {"idle": 0, "dos": 0, "broken": 0}
    single = [_SCRIPTS / "rc.local", _SCRIPTS / "qubes-firewall-user-script"]
    more = [path for folder in ("rc.local.d", "qubes-firewall.d") for path in _in(folder)]
    for path in (*single, *more):
        try:
            with path.open("rb") if path.is_file() else io.BytesIO() as file:
                data = file.read(65536)
        except OSError:
            continue
        if not any(line.strip() and not line.startswith(b"#") for line in data.splitlines()):
            continue
        found["idle"] += not os.access(path, os.X_OK)
        found["dos"] += b"\r\n" in data
        found["broken"] += not _parses(path, data)
    return found


def _in(folder):
    try:
        return sorted((_SCRIPTS / folder).iterdir())
    except OSError:
        return []


def _parses(path, data):
    """Whether a shell could read all of it; nothing of it is run."""
    first = data.partition(b"\n")[0]
    shell = "bash" if b"bash" in first else "sh"
    if not first.startswith(b"#!") or b"sh" not in first or not shutil.which(shell):
        return True
    try:
        qubes_vpn_nft.run(shell, "-n", str(path))
    except Failed:
        return False
    return True
