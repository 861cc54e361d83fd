# SPDX-License-Identifier: GPL-2.0-or-later
"""dnscrypt-proxy in a resolver qube: what it says of its configuration, and its lists of servers.

Facts are of 2.1.8, Debian 13's.
"""

import pwd
import subprocess
import tempfile
from pathlib import Path

import qubes_vpn_dns_ask
import qubes_vpn_dnscrypt

UNIT = "dnscrypt-proxy.service"
USER = "_dnscrypt-proxy"
PROGRAM = "/usr/sbin/dnscrypt-proxy"
FOLDER, LISTS = Path(qubes_vpn_dnscrypt.FOLDER), Path(qubes_vpn_dnscrypt.LISTS)
CONFIG, FIRST = FOLDER / qubes_vpn_dnscrypt.CONFIG, FOLDER / qubes_vpn_dnscrypt.FIRST
#: Seconds until that answers, and for all downloads.
_FIRST_ANSWER, _DOWNLOADS = 60, 180
_NO_LIST = "Unable to retrieve source"


def check(user=None):
    """What the program says of its configuration, in lines, as :data:`USER`; nothing is fetched.

    user: to become; None: this process is that user already.  Raises ``OSError``, and
    ``KeyError`` without that user.
    """
    text = qubes_vpn_dnscrypt.without_downloads(CONFIG.read_text("utf-8"))
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        Path(file.name).chmod(0o644)
        return _check(file.name, 30, user)


def bring_lists():
    """Fetches the lists that are missing or damaged; why it cannot, in words, or None.

    Runs before the proxy and as its user.  For a list it would have to look up where that is, and
    nobody but itself may be asked: so it runs once with servers that need no list.
    """
    if not any(_NO_LIST in line for line in check()) or not FIRST.exists():
        return None
    first = subprocess.Popen([PROGRAM, "-config", str(FIRST)])
    try:
        if why := qubes_vpn_dns_ask.wait(_FIRST_ANSWER, _own_name):
            return f"no list yet, and the servers that need none do not answer: {why}"
        said = _check(str(CONFIG), _DOWNLOADS)
        return next((line for line in said if _NO_LIST in line), None)
    finally:
        first.terminate()
        first.wait()


def _own_name(seconds):
    """Asked as this qube's own programs do: the proxy hears no client while it has no list."""
    return qubes_vpn_dns_ask.random_name(seconds, qubes_vpn_dns_ask.OWN)


def _check(config, patience, user=None):
    words = [PROGRAM, "-check", "-config", config]
    become = {}
    if user:
        found = pwd.getpwnam(user)
        become = {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    try:
        done = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=patience,
            **become,
        )
    except subprocess.TimeoutExpired:
        return [f"[FATAL] {PROGRAM} -check did not end within {patience} seconds"]
    return done.stdout.splitlines()
