# SPDX-License-Identifier: GPL-2.0-or-later
"""A resolver qube's resolver as the pillar has it: what would change, and changing it (R51, R53).

Clients' DNS is open when this ends well, and closed while it is changed and when it fails.  A
configuration that was not written whole has no dnscrypt-proxy.toml, and without that the proxy does
not start, now or at the next start of the qube.
"""

import stat
from pathlib import Path
from typing import NamedTuple

import qubes_vpn_configure
import qubes_vpn_dns_ask
import qubes_vpn_dns_health
import qubes_vpn_dns_own
import qubes_vpn_dnscrypt
import qubes_vpn_killswitch
import qubes_vpn_nft
import qubes_vpn_resolver
from qubes_vpn_dns_proxy import CONFIG, FOLDER, UNIT
from qubes_vpn_loading import IN_TEMPLATE

WATCH = "qubes-vpn-dns.service"
#: Seconds until it must answer: before anything is done, longer than its own two attempts; then, as
#: it tries its servers again every ten; and when it may have to fetch its lists first.
_BEFORE, _STARTED, _LISTS = 12, 60, 240
#: Seconds for systemctl: longer than systemd waits for a program to end before it kills it.
_PATIENCE = 120
#: What makes it hold at each start.
_NEEDED = tuple(
    Path("/etc/systemd/system", unit)
    for unit in (
        "sysinit.target.wants/qubes-vpn-dns-own.service",
        "multi-user.target.wants/dnscrypt-proxy.service",
        f"multi-user.target.wants/{WATCH}",
    )
)
_DNS = "clients' DNS"
_LATER = "Clients have no DNS until it answers; then it opens by itself"
_STOPPED = "dnscrypt-proxy is stopped, and clients have no DNS until this succeeds"
#: Lines of a difference that are told; the rest is counted.
_MOST = 20


class Outcome(NamedTuple):
    """changes: what changed, or would.  problems: why it is not as it should be."""

    changes: dict
    problems: tuple = ()


def apply(settings, dry):
    """The resolver is configured by *settings*, answers, and clients may ask: an :class:`Outcome`.

    settings: of the pillar, with its defaults.  dry: nothing is changed; the outcome is what would
    be, if the servers answer then.
    """
    if problems := _missing(settings):
        return Outcome({}, tuple(problems))
    files = {FOLDER / name: text for name, text in qubes_vpn_dnscrypt.files(settings).items()}
    written = differences(files)
    before = _condition()
    opened = {} if before == "open" else {_DNS: {"old": before, "new": "open"}}
    changes = written | opened
    if dry or not changes:
        return Outcome(changes)
    shut = {_DNS: {"old": "open", "new": "closed"}} if before == "open" else {}
    try:
        if written:
            closed = _closed()
            # Before an answer of the old one could be taken for the new.
            if why := _failure("stop", UNIT):
                return Outcome(shut, (f"{why}. Nothing was written", *closed))
            write({path: files[path] for path in files if path == CONFIG or str(path) in written})
        if why := _failure("start", "--no-block", UNIT, WATCH):
            return Outcome(written | shut, (why, *_closed(), _LATER))
        why = qubes_vpn_dns_ask.wait(_LISTS if settings["lists"] else _STARTED)
        if why:
            told = qubes_vpn_dns_health.problems(why) or [f"the resolver does not answer: {why}"]
            return Outcome(written | shut, (*told, *_closed(), _LATER))
        loaded = qubes_vpn_resolver.open_up(IN_TEMPLATE)
    except OSError as error:
        gone = {str(CONFIG): {"old": "there", "new": "removed"}} if not CONFIG.exists() else {}
        return Outcome(gone, (f"{error.filename}: {error.strerror}", *_closed(), _STOPPED))
    except Exception:
        _closed()
        raise
    return Outcome(written if loaded.problems else changes, loaded.problems)


def differences(files):
    """``{path: what is different}`` for those of *files*, ``{path: text}``, that are not so."""
    told = {}
    for path, text in files.items():
        try:
            old = qubes_vpn_killswitch.read(path, missing=b"").decode("utf-8", "replace")
        except qubes_vpn_killswitch.Unusable as error:
            told[str(path)] = {"old": str(error), "new": "as the pillar says"}
            continue
        if old != text or not _is_ours(path):
            have, want = old.splitlines(), text.splitlines()
            new = [line for line in dict.fromkeys(want) if line not in {*have}]
            more = [f"and {len(new) - _MOST} more lines"] if len(new) > _MOST else []
            # What was there somebody may have written who put a secret into it.
            gone = len({*have} - {*want})
            told[str(path)] = {"old": f"{gone} other lines", "new": new[:_MOST] + more}
    return told


def write(files):
    """Writes *files*, the configuration itself last, and none of it if the others fail."""
    qubes_vpn_configure.folder(FOLDER)
    FOLDER.chmod(0o755)  # dnscrypt-proxy's user reads it, whatever root's umask is
    CONFIG.unlink(missing_ok=True)
    for path in sorted(files, key=lambda path: path == CONFIG):
        qubes_vpn_configure.replace(path, files[path].encode(), 0o644)


def _missing(settings):
    """What this qube lacks, so that nothing can be changed, or would stay."""
    told = qubes_vpn_resolver.missing(qubes_vpn_resolver.installed())
    told += [
        f"{path} is not there. Apply the formula to this qube's template, and restart this qube"
        for path in _NEEDED
        if not told and not path.exists()
    ]
    told += [
        f"{path} is not there, which is yours and named in the pillar: without it dnscrypt-proxy "
        "does not start. Put it there, readable by all"
        for path in qubes_vpn_dnscrypt.own_files(settings)
        if not Path(path).is_file()
    ]
    return told or qubes_vpn_dns_own.problems()


def _condition():
    """``open``, or in words why clients have no DNS."""
    if why := qubes_vpn_dns_ask.ask(_BEFORE):
        return f"closed: {why}"
    return "open" if qubes_vpn_resolver.is_open() else "closed"


def _closed():
    """Closes clients' DNS; returns why that failed."""
    return qubes_vpn_resolver.close(IN_TEMPLATE).problems


def _failure(*words):
    """Why systemctl could not do it, or None.  What a unit does later is seen by its answers."""
    try:
        qubes_vpn_nft.run("systemctl", *words, patience=_PATIENCE)
    except qubes_vpn_nft.Failed as error:
        return f"systemctl {words[0]}: {error}"
    return None


def _is_ours(path):
    """Whether it is as :func:`write` leaves it: nobody but root could have written it."""
    found = path.lstat()
    return found.st_uid == 0 and stat.S_IMODE(found.st_mode) == 0o644
