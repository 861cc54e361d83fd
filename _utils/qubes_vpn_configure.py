# SPDX-License-Identifier: GPL-2.0-or-later
"""The two files of a VPN qube that open its killswitch: what they should say, and writing them.

A load of the killswitch while they are being written finds the old pair, the new pair, or no
endpoints, which is closed; never one of each.
"""

import os
import re
import stat
import tempfile
from pathlib import Path

import qubes_vpn_endpoints
import qubes_vpn_killswitch
import qubes_vpn_net
import qubes_vpn_ruleset

ENDPOINTS = qubes_vpn_killswitch.CONFIG / "endpoints.txt"
SETTINGS = qubes_vpn_killswitch.CONFIG / "killswitch.conf"

#: Lines of a difference that are told; the rest is counted.
_MOST = 20
_SETTING = re.compile(r"(interface|log) = [A-Za-z0-9_.-]{1,15}\Z")


def wanted(endpoints, interface, log):
    """``{path: text}`` of both files, in the order in which they are written.

    endpoints: list of texts in the pillar's grammar.  interface: name of the tunnel's interface.
    log: whether what is dropped is logged.
    Raises :class:`qubes_vpn_endpoints.NotEndpoints` or ``ValueError`` in words.
    """
    if wrong := qubes_vpn_ruleset.interface(interface):
        raise ValueError(wrong)
    found = [qubes_vpn_net.endpoint(text) for text in endpoints]
    text = qubes_vpn_endpoints.write(found)
    qubes_vpn_endpoints.elements(qubes_vpn_endpoints.read(text.encode(), "endpoints"))
    return {SETTINGS: qubes_vpn_ruleset.write_settings([interface], log), ENDPOINTS: text}


def differences(files):
    """``{name: what is different}`` for those of *files* (see :func:`wanted`) that are not so."""
    told = {}
    for folder in dict.fromkeys(path.parent for path in files):
        if qubes_vpn_killswitch.is_others(folder):
            told[str(folder)] = {"old": "others than root can change it", "new": "root's alone"}
    for path, text in files.items():
        try:
            old = qubes_vpn_killswitch.read(path, missing=b"").decode("ascii", "backslashreplace")
        except qubes_vpn_killswitch.Unusable as error:
            told[str(path)] = {"old": str(error), "new": _lines(text.splitlines())}
            continue
        if not _is_ours(path) or old != text:
            have, want = (dict.fromkeys(lines.splitlines()) for lines in (old, text))
            told[str(path)] = {
                "old": _lines(line for line in have if line not in want),
                "new": _lines(line for line in want if line not in have),
            }
    return told


def write(files):
    """Makes *files* so, those that differ.  When it fails, there are no endpoints: closed."""
    differing = [path for path in files if str(path) in differences(files)]
    try:
        folder(qubes_vpn_killswitch.CONFIG)
        if len(differing) > 1:
            ENDPOINTS.unlink(missing_ok=True)
        for path in differing:
            replace(path, files[path].encode(), 0o644)
    except OSError:
        ENDPOINTS.unlink(missing_ok=True)
        raise


def _is_ours(path):
    """Whether nobody but root can have written it, and it is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return found.st_uid == 0 and not found.st_mode & 0o022


def folder(path):
    """*path* is a folder that root alone can write to, and others can enter.

    What is made of it is so as well, whatever the umask is: below it lie what root runs at each
    start, and what dnscrypt-proxy's user reads.  Raises ``OSError``.
    """
    for part in reversed((path, *path.parents)):
        if not part.exists():
            part.mkdir(0o755)
            part.chmod(0o755)
    if qubes_vpn_killswitch.is_others(path):
        os.chown(path, 0, 0)
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o022)


def replace(path, data, mode):
    """*path* becomes a plain file with these bytes and this *mode*, at once or not at all.

    Raises ``OSError`` with *path* as its file name: that of a full disk has none.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            try:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except OSError:
                Path(file.name).unlink()
                raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _lines(lines):
    lines = [line if _is_ours_to_tell(line) else "(not shown)" for line in lines]
    more = [f"and {len(lines) - _MOST} more"] if len(lines) > _MOST else []
    return lines[:_MOST] + more


def _is_ours_to_tell(line):
    """Whether *line* is an endpoint or a setting: whatever else is there may be a secret."""
    try:
        qubes_vpn_net.endpoint(line)
    except qubes_vpn_net.NotADestination:
        return bool(_SETTING.match(line))
    return True
