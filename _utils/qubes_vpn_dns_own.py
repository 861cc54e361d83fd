# SPDX-License-Identifier: GPL-2.0-or-later
"""A resolver qube's own programs ask the resolver in it, and nobody changes that (R54).

Qubes' ``setup-ip`` writes /etc/resolv.conf at each start of the uplink, unless a file in
``/etc/qubes/protected-files.d`` has that name on a line of its own (core-agent-linux
``network/setup-ip``, ``init/functions``).  That folder is the template's, so it is done in the
qube, at each start and before the uplink, where it concerns no other qube of the template.

systemd-resolved, which Fedora has, would hold port 53 of 127.0.0.53, so that dnscrypt-proxy could
not have that of all addresses, and would ask what ``setup-ip`` tells it.  It is kept (``setup-ip``
fails where it is enabled and does not run), without that listener, and asks the resolver too.
"""

import os
import tempfile
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")
PROTECTED = Path("/etc/qubes/protected-files.d/50-qubes-vpn-dns")
RESOLVED = Path("/run/systemd/resolved.conf.d/50-qubes-vpn-dns.conf")
#: dnscrypt-proxy asks by it where an old list of servers is, before it hears anybody, itself too:
#: with the resolver's usual patience, five seconds and again five, for each address of each list.
NAMESERVERS = """# By qubes-vpn: the resolver in this qube.
nameserver 127.0.0.1
options timeout:1 attempts:2
"""
_FILES = {
    PROTECTED: f"{RESOLV_CONF}\n",
    RESOLVED: "[Resolve]\nDNS=127.0.0.1\nDomains=~.\nDNSStubListener=no\n",
    RESOLV_CONF: NAMESERVERS,
}


def pin():
    """Writes what is not so; raises ``OSError``."""
    for path, text in _FILES.items():
        if not _is_so(path, text):
            path.parent.mkdir(parents=True, exist_ok=True)
            # In place of a link, too: Fedora's resolv.conf is one.
            with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o644)
            Path(file.name).replace(path)


def problems():
    """What is not so, in words."""
    return [
        f"{path} was changed: programs of this qube itself may have no names. Restart this qube"
        for path, text in _FILES.items()
        if not _is_so(path, text)
    ]


def _is_so(path, text):
    try:
        return not path.is_symlink() and path.read_text("utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False
