# SPDX-License-Identifier: GPL-2.0-or-later
"""The Mullvad app's state outlives a restart of its qube (R30, R81), by Qubes' bind-dirs.

qubes-core-agent-linux `vm-systemd/bind-dirs.sh` reads `binds+=( ... )` from
`/rw/config/qubes-bind-dirs.d/*.conf` at each start, and mounts `/rw/bind-dirs/PATH` on PATH.  The
first time the same is done here while the qube runs, with the daemon stopped meanwhile: what it
had written would be lost at the next start, its settings and relay list too.

A login that is not in /rw is not taken over.  It may be the template's, and nothing in the qube
tells: times depend on a clock that may be wrong at the start.
"""

import tempfile
from pathlib import Path

import qubes_vpn_configure
import qubes_vpn_logins as logins
import qubes_vpn_nft
from qubes_vpn_problem import os_words

CONF = Path("/rw/config/qubes-bind-dirs.d/50-qubes-vpn.conf")
#: Login, device key, settings; relay list and the API's address.
FOLDERS = (Path("/etc/mullvad-vpn"), Path("/var/cache/mullvad-vpn"))
DEVICE = FOLDERS[0] / "device.json"
DAEMON = "mullvad-daemon.service"
_KEPT = Path("/rw/bind-dirs")
_SERVICES = Path("/run/qubes-service")
_TEXT = "# Written by the qubes_vpn formula: what the Mullvad app must keep.\n" + "".join(
    f"binds+=( '{folder}' )\n" for folder in FOLDERS
)
#: Of a unit: it runs, or will by itself.
_RUNNING = ("active", "activating", "reloading")
#: Seconds for a unit to stop or to start.
_PATIENCE = 90


class NotKept(Exception):
    """The app's state would be lost; the text is for users."""


def hindrances():
    """Why nothing can be kept, or the daemon not be started."""
    unit = _unit()
    if unit["LoadState"] == "masked":
        return [f"{DAEMON} is masked. In this qube, or its template: systemctl unmask {DAEMON}"]
    if unit["ActiveState"] == "failed":
        return [f"{DAEMON} has failed. See journalctl -u {DAEMON}, and: systemctl restart {DAEMON}"]
    unbound = [folder for folder in FOLDERS if not _is_bound(folder)]
    if not unbound:
        return []
    if (_SERVICES / "custom-persist").exists():
        return [
            f"custom-persist is on, so Qubes does not read {CONF}, and the Mullvad app would lose "
            "its login at each restart. In dom0: qvm-service QUBE custom-persist off"
        ]
    if FOLDERS[0] in unbound and not _kept(FOLDERS[0]).exists() and _holds_login(DEVICE):
        return [
            f"{DEVICE} holds a login that is not kept in /rw, and may have come from the template: "
            "every qube of that would be the same device of the account. In this qube: `mullvad "
            "account logout`, which gives the device back. Look for the same file in the template, "
            "and delete it there. Then run this again"
        ]
    return []


def differences():
    """``{what: {"old", "new"}}`` of what is to be done so that the state is kept."""
    told = {}
    if _read(CONF) != _TEXT:
        old = "not there" if _read(CONF) is None else "otherwise"
        told[str(CONF)] = {"old": old, "new": ", ".join(map(str, FOLDERS))}
    for folder in FOLDERS:
        if not _is_bound(folder):
            told[str(folder)] = {"old": "lost at a restart", "new": str(_kept(folder))}
    if _unit()["ActiveState"] not in _RUNNING:
        told[DAEMON] = {"old": "stopped", "new": "running"}
    return told


def keep():
    """Does it; raises :class:`NotKept`.  The daemon runs afterwards, if it can.

    It may be stopped already: by a run that was killed before it started the daemon again.
    """
    try:
        _write(CONF, _TEXT)
        unbound = [folder for folder in FOLDERS if not _is_bound(folder)]
        if unbound:
            _run("systemctl", "stop", DAEMON)
        try:
            for folder in unbound:
                _bind(folder)
        finally:
            _run("systemctl", "start", DAEMON)
    except OSError as error:
        raise NotKept(os_words(error)) from None


def _bind(folder):
    """As bind-dirs does it: what is kept already counts, else what is there is taken over."""
    kept = _kept(folder)
    if not kept.exists():
        qubes_vpn_configure.folder(kept.parent)
        with tempfile.TemporaryDirectory(dir=kept.parent) as half:
            new = Path(half) / "new"
            if folder.is_dir():
                _run("cp", "--archive", "--", str(folder), str(new))
            else:
                new.mkdir(mode=0o755)
            new.rename(kept)
    folder.mkdir(parents=True, exist_ok=True)
    _run("mount", "--bind", "-o", "x-gvfs-hide", str(kept), str(folder))
    if not _is_bound(folder):
        raise NotKept(f"{folder}: {kept} was mounted there, and it is not")


def _kept(folder):
    return _KEPT / folder.relative_to("/")


def _is_bound(folder):
    try:
        return folder.samefile(_kept(folder))
    except FileNotFoundError:
        return False


def _holds_login(path):
    """Whether somebody is logged in by *path*; what cannot be read may be that."""
    try:
        return logins.is_logged_in(path.read_bytes())
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _unit():
    """What systemd knows of the daemon, by the names of its properties."""
    names = ("LoadState", "ActiveState")
    shown = _run("systemctl", "show", f"--property={','.join(names)}", DAEMON)
    return dict.fromkeys(names, "") | dict(
        line.split("=", 1) for line in shown.splitlines() if "=" in line
    )


def _read(path):
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _write(path, text):
    if _read(path) == text:
        return
    qubes_vpn_configure.folder(path.parent)
    qubes_vpn_configure.replace(path, text.encode(), 0o644)


def _run(*words):
    try:
        return qubes_vpn_nft.run(*words, patience=_PATIENCE)
    except qubes_vpn_nft.Failed as error:
        raise NotKept(f"{' '.join(words)}: {error}") from None
