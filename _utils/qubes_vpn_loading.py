# SPDX-License-Identifier: GPL-2.0-or-later
"""Loads a qube's rules: one process at a time, and whatever goes wrong leaves them closed.

What the killswitch of a VPN qube and the rules of a resolver qube have in common.
"""

import contextlib
import fcntl
import hashlib
import os
import time
from pathlib import Path
from typing import NamedTuple

import qubes_vpn_nft

#: Where a template has the rules and what loads them, and a qube its service flags.
IN_TEMPLATE, SERVICES = Path("/usr/lib/qubes-vpn"), Path("/run/qubes-service")
#: Seconds for which another load is waited for.
_PATIENCE = 60


class Result(NamedTuple):
    """*open*: what the rules are to let pass may pass.  Problems are in words.

    *safe*: False when they could be neither opened nor closed.
    """

    open: bool
    problems: tuple = ()
    safe: bool = True


class Unusable(Exception):
    """What does not open anything; the arguments are the reasons."""


class Rules(NamedTuple):
    """The rules of one kind of qube.

    name: of the file with them, closed; nothing in it is an element of the set *opener*, which is
    what opens them.  shut: a function of its text that loads it and looks whether it holds.
    """

    name: str
    opener: str
    shut: object


def alone(rules, library, work):
    """``work(text of the closed rules)``, one process at a time, as a :class:`Result`.

    rules: :class:`Rules`.  library: folder with their file.  work: answers whether they are open
    now.  When it fails, everything is closed.  The lock is on the file itself, so that nothing has
    to be written; only root can read that file, so nobody else can hold it.
    """
    path = library / rules.name
    try:
        with turn(path) as closed:
            try:
                opened = bool(work(closed))
            except BaseException as error:  # whatever it was, nothing stays open
                result = _closing(rules, closed, words(error))
                if not isinstance(error, Exception):
                    raise
                return result
    except OSError as error:
        told, safe = _down()
        return Result(False, (f"{path}: {error.strerror}", *told), safe)
    return Result(opened)


@contextlib.contextmanager
def turn(path):
    """The turn of this process, as for :func:`alone`; gives the text of the closed rules in *path*.

    Raises ``OSError``.
    """
    with path.open() as file:
        _lock(file)
        yield file.read()


def _lock(file):
    """Waits for its turn, but not for ever: a load is one transaction, so two are no danger."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.01)


def _closing(rules, closed, problems):
    """The :class:`Result` of closing because of *problems*; if that fails, of all that is left."""
    try:
        rules.shut(closed)
        return Result(False, (*problems,))
    except BaseException as error:
        told = words(error)
    bare = False
    try:
        qubes_vpn_nft.load(closed)  # asks nothing about devices
        bare = not qubes_vpn_nft.is_open(rules.opener)
    except BaseException as error:
        told += words(error)
    down, safe = _down()
    return Result(False, (*problems, *told, *down), safe or bare)


def words(error):
    """The reasons in an exception."""
    if isinstance(error, Unusable):
        return error.args
    return (str(error) or type(error).__name__,)


def _down():
    """The last resort: no link, no leak.  Returns what was done, and whether that is enough."""
    told, safe = [], True
    try:
        uplinks = list(qubes_vpn_nft.uplinks())
    except Exception as error:
        return [f"the network devices cannot be listed: {error}"], False
    for device in uplinks:
        try:
            qubes_vpn_nft.set_down(device)
            told.append(
                f"{device} was taken down; once this is mended: ip link set dev {device} up"
            )
        except Exception as error:
            told.append(f"{device} could not be taken down: {error}")
            safe = False
    return told, safe


def read_lists_again():
    """Has qubes-firewall read clients' lists again, without waiting for it.

    Qubes blocks all of a client whose list has a host name that could not be looked up, until then;
    and ``specialtarget=dns`` in a list is what /etc/resolv.conf named when it was read
    (core-agent-linux ``qubesagent/firewall.py``).  Qubes does the same when a netvm's DNS changes
    by NetworkManager (``network/qubes-setup-dnat-to-ns``), but not by the Mullvad app.
    """
    words = ("--no-block", "try-reload-or-restart", "qubes-firewall.service")
    # If it does not: that is no reason to close, and qubes-firewall tells its user.
    with contextlib.suppress(qubes_vpn_nft.Failed):
        qubes_vpn_nft.run("systemctl", *words)


def drift(text):
    """How the table of ours that is loaded differs from *text*, in words."""
    should = qubes_vpn_nft.listed_elsewhere(text, "inet")
    loaded = qubes_vpn_nft.listed("inet")
    told = []
    for block in sorted(loaded.keys() | should.keys()):
        have, want = loaded.get(block), should.get(block)
        if have is None or want is None:
            told.append(f"{block} is {'missing' if have is None else 'not ours'}")
        elif have != want:
            more, less = sorted({*have} - {*want}), sorted({*want} - {*have})
            told += [f"{block}: '{line}' is not ours" for line in more[:5]]
            told += [f"{block}: '{line}' is missing" for line in less[:5]]
            if len(more) > 5 or len(less) > 5:
                told.append(f"{block}: {len(more)} more and {len(less)} missing altogether")
            if not more and not less:
                told.append(f"{block}: the order differs")
    return told


def lacking(needed, rules, known):
    """What of the installed files is not as it should be, in words.

    needed: ``(path, how it must be accessible)``, as ``os.access`` takes it.  rules: path of the
    closed rules; known: their SHA-256.
    """
    told = [
        f"{path} is not there, or cannot be run. Apply the formula"
        for path, mode in needed
        if not os.access(path, mode)
    ]
    if told:
        return told
    try:
        found = hashlib.sha256(rules.read_bytes()).hexdigest()
    except OSError as error:
        return [f"{rules}: {error.strerror}"]
    if found != known:
        return [f"{rules} is of another version. Apply the formula to it anew"]
    return []


def text(report):
    """A status report as lines; a list has one line for each of its items."""
    lines = []
    for key, value in report.items():
        if isinstance(value, dict):
            value = [f"{name}: {item}" for name, item in value.items()]
        values = value if isinstance(value, list) else [value]
        lines += [f"{key.replace('_', ' ')}: {item}" for item in values or ["none"]]
    return "\n".join(lines)
