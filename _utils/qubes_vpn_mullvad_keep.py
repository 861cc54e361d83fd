# SPDX-License-Identifier: GPL-2.0-or-later
"""The Mullvad app's state outlives a restart of its qube (R30, R81), by Qubes' bind-dirs.

qubes-core-agent-linux `vm-systemd/bind-dirs.sh` reads `binds+=( ... )` from
`/rw/config/qubes-bind-dirs.d/*.conf` at each start, and mounts `/rw/bind-dirs/PATH` on PATH.  The
first time the same is done here while the qube runs, with the daemon stopped meanwhile: what it
had written would be lost at the next start, its login and so one of the account's few devices too.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

CONF = Path("/rw/config/qubes-bind-dirs.d/50-qubes-vpn.conf")
#: Login, device key, settings; relay list and the API's address.
FOLDERS = (Path("/etc/mullvad-vpn"), Path("/var/cache/mullvad-vpn"))
DEVICE = FOLDERS[0] / "device.json"
DAEMON = "mullvad-daemon.service"
_KEPT = Path("/rw/bind-dirs")
_SERVICES = Path("/run/qubes-service")
_FLAG = _SERVICES / "qubes-vpn"
_TEXT = "# Written by the qubes_vpn formula: what the Mullvad app must keep.\n" + "".join(
    f"binds+=( '{folder}' )\n" for folder in FOLDERS
)
#: Seconds for a unit to stop or to start.
_PATIENCE = 90


class NotKept(Exception):
    """The app's state would be lost; the text is for users."""


def hindrances():
    """Why nothing can be kept."""
    unbound = [folder for folder in FOLDERS if not _is_bound(folder)]
    if not unbound:
        return []
    if (_SERVICES / "custom-persist").exists():
        return [
            f"custom-persist is on, so Qubes does not read {CONF}, and the Mullvad app would lose "
            "its login at each restart. In dom0: qvm-service QUBE custom-persist off"
        ]
    if FOLDERS[0] in unbound and _of_the_template(DEVICE) and not _kept(FOLDERS[0]).exists():
        return [
            f"{DEVICE} comes from the template: every qube of it would be the same device of the "
            "account. Delete it in the template, revoke that device on mullvad.net, shut the "
            "template down, and restart this qube"
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
    return told


def keep():
    """Does it; raises :class:`NotKept`.  The daemon runs afterwards if it did before, or can."""
    try:
        _write(CONF, _TEXT)
        unbound = [folder for folder in FOLDERS if not _is_bound(folder)]
        if not unbound:
            return
        _run("systemctl", "stop", DAEMON)
        try:
            for folder in unbound:
                _bind(folder)
        finally:
            _run("systemctl", "start", DAEMON)
    except OSError as error:
        raise NotKept(f"{error.filename}: {error.strerror}") from None


def _bind(folder):
    """As bind-dirs does it: what is kept already counts, else what is there is taken over."""
    kept = _kept(folder)
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
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


def _of_the_template(path):
    """Whether *path* is older than this start of the qube: Qubes makes the flag at each."""
    try:
        return path.lstat().st_ctime < _FLAG.lstat().st_mtime
    except FileNotFoundError:
        return False


def _read(path):
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _write(path, text):
    if _read(path) == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.write_text(text, encoding="utf-8")
    new.chmod(0o644)
    new.replace(path)


def _run(*words):
    program = shutil.which(words[0], path="/usr/sbin:/usr/bin:/sbin:/bin") or words[0]
    try:
        done = subprocess.run(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotKept(f"{' '.join(words)}: not done in {_PATIENCE} seconds") from None
    if done.returncode:
        raise NotKept(f"{' '.join(words)}: {' '.join(done.stderr.split())}")
