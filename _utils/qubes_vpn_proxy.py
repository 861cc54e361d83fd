# SPDX-License-Identifier: GPL-2.0-or-later
"""Qubes' updates proxy, seen from a template: it has no netvm, and this is its only way out.

qubes-core-agent-linux: ``network/update-proxy-configs`` (address, and the flag that says whether a
qube uses it), ``vm-systemd/qubes-updates-proxy-forwarder.socket``.  The socket always accepts; when
dom0's policy or the qube behind it says no, it hangs up without a word.
"""

import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

ADDRESS = ("127.0.0.1", 8082)
#: Whether this qube gets its updates through the proxy; else apt and dnf go out by themselves.
FLAG = Path("/run/qubes-service/updates-proxy-setup")
#: Seconds.  The policy may start the qube behind the proxy first.
_PATIENCE = 90
#: Where to look when nothing comes through.
FIX = (
    "In dom0: the pillar's updates.templates, or the policy of qubes.UpdatesProxy, names the qube "
    "that fetches templates' updates; it must run and be online"
)


class Unreachable(Exception):
    """What was asked for cannot be had; the argument says why, and what to do."""


def in_words():
    """By which way things are fetched."""
    return f"the updates proxy {ADDRESS[0]}:{ADDRESS[1]}" if FLAG.exists() else "the network"


def check():
    """Raises :class:`Unreachable` when nobody is behind the proxy."""
    if not FLAG.exists():
        return
    try:
        with socket.create_connection(ADDRESS, timeout=_PATIENCE) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = connection.recv(5)
    except OSError as error:
        raise Unreachable(f"{in_words()} cannot be reached: {_reason(error)}. {FIX}") from None
    if answer != b"HTTP/":
        raise Unreachable(f"{in_words()} hangs up. {FIX}")


def fetch(url, most):
    """The bytes at *url* (https), at most *most*; raises :class:`Unreachable`."""
    proxies = {"https": f"http://{ADDRESS[0]}:{ADDRESS[1]}"} if FLAG.exists() else {}
    handlers = (
        urllib.request.ProxyHandler(proxies),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
    )
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=_PATIENCE) as answer:
            data = answer.read(most + 1)
    except (OSError, ValueError) as error:  # urllib's own errors are OSErrors
        raise Unreachable(
            f"{url} cannot be fetched through {in_words()}: {_reason(error)}. {FIX}"
        ) from None
    if len(data) > most:
        raise Unreachable(f"{url} is longer than {most} bytes, so it is not what it should be")
    return data


def _reason(error):
    if isinstance(error, urllib.error.HTTPError):
        return f"the answer is {error.code}"
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or str(reason)
