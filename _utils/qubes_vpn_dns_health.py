# SPDX-License-Identifier: GPL-2.0-or-later
"""Why the resolver of this qube does not answer, in words, each with its fix.

dnscrypt-proxy says little: that a DNSCrypt certificate is out of its time it says nowhere but as
"No usable certificate found", and after its start it logs failures of servers no more (2.1.8).  So
its journal is one of several witnesses: its own check of its configuration, who has port 53, the
time that Qubes has, and whether something on the way out refuses.

:func:`look` asks them all, :func:`explain` concludes.
"""

import errno
import re
import select
import socket
import subprocess
import time
from datetime import UTC, datetime
from typing import NamedTuple

import qubes_vpn_dns_own
import qubes_vpn_dns_proxy
from qubes_vpn_dns_proxy import CONFIG, FOLDER, UNIT

_ENVIRON = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
#: Seconds by which the clock may differ from that of Qubes, which sets it every six hours.
_CLOCK = 120
#: Days after which a list counts as old: dnscrypt-proxy fetches it anew every few days.
_OLD = 30
#: An address that nobody has (RFC 5737): whether the way refuses, it says itself, on the way.
_NOBODY = ("192.0.2.1", 443)
#: What the VPN qube's "administratively prohibited" comes out as; a closed port is another matter.
_REFUSALS = {errno.EHOSTUNREACH, errno.EACCES}
#: Type and code of ICMP's: network, host, anything administratively prohibited (RFC 1812).
_PROHIBITED = (b"\3\x09", b"\3\x0a", b"\3\x0d")
#: Seconds for a refusal.
_WAIT = 3
_VERDICT = re.compile(r"\[(?:FATAL|CRITICAL|ERROR)\]|live servers")
_FATAL = re.compile(r"\[FATAL\] (.{1,300})")
_START = re.compile(r"\[NOTICE\] dnscrypt-proxy \d")
_LIST = re.compile(r"Unable to retrieve source \[([^]]*)\]: \[(.*)\]")
_USED = re.compile(r'"([^"]{1,40})",pid=')
_ITSELF = "dnscrypt-proxy"


class Facts(NamedTuple):
    """What was seen.  why: of :func:`qubes_vpn_dns_ask.ask`.

    unit: systemd's LoadState and ActiveState; empty without a configuration.  check, log: what the
    proxy says of its configuration, and has said since its last start.  port: names of the programs
    on port 53.  clock: seconds by which this qube's is ahead of Qubes'; None: not known.  way:
    ``refused``, ``none`` (no route) or ``open``.  lists: ``(file, days since it was last found to
    be current)`` of each.
    """

    why: str | None = None
    unit: tuple = ("loaded", "active")
    check: str = ""
    log: str = ""
    port: tuple = (_ITSELF,)
    clock: float | None = None
    way: str = "open"
    lists: tuple = ()


def problems(why):
    """What is wrong, in sentences, or none.  why: of :func:`qubes_vpn_dns_ask.ask`."""
    return [*(text for _, text in causes(why)), *qubes_vpn_dns_own.problems()]


def causes(why):
    """The same as ``(cause, sentence)`` of a list; the causes are ``qubes_vpn_told.CAUSES``."""
    return _explained(look(why) if why else Facts(lists=_lists()))


def explain(facts):
    """What is wrong by these :class:`Facts`."""
    return [text for _, text in _explained(facts)]


def _explained(facts):
    old = [
        (
            "old-list",
            f"the list {file} is {days:.0f} days old, so its servers may have gone: no newer one "
            "could be fetched. See whether its address in the pillar is still right",
        )
        for file, days in facts.lists
        if days > _OLD
    ]
    if facts.why is None:
        return old
    for name, look_for in _CAUSES.items():
        if told := look_for(facts):
            return [(name, told), *old]
    return old


def _not_running(facts):
    if not facts.unit:
        return f"{CONFIG} is not there. Apply the formula to this qube"
    load, active = facts.unit
    if load != "loaded":
        return (
            f"the unit {UNIT} is {load}. Apply the formula to this qube's template and restart it"
        )
    others = [name for name in facts.port if name != _ITSELF]
    if others and _ITSELF not in facts.port:
        theirs = _printable(", ".join(sorted({*others})))
        return (
            f"{theirs} has port 53, which dnscrypt-proxy needs. Stop it, and keep it from starting "
            "in this qube"
        )
    if active in ("inactive", "unknown"):
        return f"dnscrypt-proxy does not run. Start it: sudo systemctl start {UNIT}"
    return None


def _refused(facts):
    """What the program itself does not accept."""
    if _LIST.search(facts.check):
        return None  # another cause may be why it could not be fetched
    if "None of the servers listed" in facts.check:
        return (
            "none of the pillar's server_names is in the lists: they were renamed or given up. "
            "Name others, or static servers"
        )
    for said in (facts.check, facts.log):
        if found := _FATAL.search(said):
            return (
                f"dnscrypt-proxy refuses its configuration: {_printable(found[1])}. Correct the "
                f"pillar, or the file of yours in {FOLDER}, and apply the formula to this qube"
            )
    return None


def _clock(facts):
    if facts.clock is None or abs(facts.clock) <= _CLOCK:
        return None
    return (
        f"the clock is {_span(facts.clock)} {'ahead of' if facts.clock > 0 else 'behind'} that of "
        "Qubes, so no server's certificate is valid. Set it: sudo qvm-sync-clock"
    )


def _out(facts):
    if facts.way == "none":
        return (
            "this qube has no way out: its netvm is none, or is off. In dom0: qvm-prefs QUBE netvm"
        )
    if facts.way == "refused":
        return (
            "the VPN qube refuses what is sent: its tunnel is down. In that qube: "
            "sudo /usr/lib/qubes-vpn/tunnel status"
        )
    return None


def _list(facts):
    found = _LIST.search(facts.check)
    if not found:
        return None
    name, why = map(_printable, found.groups())
    if "no such file" in why:
        return (
            f"the list '{name}' is missing, and could not be fetched yet; it is tried again and "
            f"again. See journalctl -b -u {UNIT}, or name static servers in the pillar"
        )
    return (
        f"the list '{name}' cannot be used: its signature does not fit ({why}), so it is damaged "
        "or forged. It is fetched anew whenever dnscrypt-proxy starts. See journalctl -b -u "
        f"{UNIT}, or name static servers in the pillar"
    )


def _servers(facts):
    if "No usable certificate" in facts.log or "expired or is not yet valid" in facts.log:
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        if facts.clock is None:
            return (
                f"no server's certificate is valid now, {now}. If that is not the time, set the "
                "clock: sudo qvm-sync-clock. If it is, name other servers in the pillar"
            )
        return (
            f"no server's certificate is valid now, {now}, which is the time that Qubes has. Name "
            "other servers in the pillar"
        )
    if "Certificate hash" in facts.log or "Incorrect signature for provider" in facts.log:
        return (
            "a server has another key than its stamp says. Get its stamp anew, or name other "
            "servers in the pillar"
        )
    return (
        f"no server answers through the tunnel ({facts.why}): they are down, or the VPN or "
        "somebody behind it blocks them. Name other servers in the pillar, or another protocol"
    )


#: In this order: each hides what comes after it.
_CAUSES = {
    "not-running": _not_running,
    "refused": _refused,
    "clock": _clock,
    "out": _out,
    "list": _list,
    "servers": _servers,
}


def look(why):
    """:class:`Facts` of this qube; what cannot be asked is as if all was well with it."""
    check = unit = ""
    if CONFIG.is_file():
        check = _own_check()
        shown = _run("systemctl", "show", UNIT, "--property=LoadState,ActiveState")
        found = dict(re.findall(r"^(\w+)=(.*)$", shown, re.MULTILINE))
        unit = found.get("LoadState", "loaded"), found.get("ActiveState", "active")
    return Facts(
        why,
        unit,
        check,
        _log(),
        tuple(_USED.findall(_run("ss", "-Hlntup", "sport = 53"))),
        _ahead(),
        _way(),
        _lists(),
    )


def _own_check():
    try:
        return "\n".join(qubes_vpn_dns_proxy.check(qubes_vpn_dns_proxy.USER))
    except (OSError, KeyError) as error:
        return f"[FATAL] it cannot be run: {error}"


def _log():
    """What it said since its last start; since the one before, until it has come to a verdict."""
    lines = _run("journalctl", "-b", "-u", UNIT, "-o", "cat", "-n", "300").splitlines()
    starts = [number for number, line in enumerate(lines) if _START.search(line)] or [0]
    said = "\n".join(lines[starts[-1] :])
    return said if _VERDICT.search(said) else "\n".join(lines[starts[-2:][0] :])


def _ahead():
    """Seconds by which the clock is ahead of Qubes', for which each qube may ask."""
    words = ("qrexec-client-vm", "--filter-escape-chars-stderr", "@default", "qubes.GetDate")
    try:
        # As `date -u -Iseconds` writes it.
        theirs = datetime.fromisoformat(_run(*words)[:19]).replace(tzinfo=UTC)
    except ValueError:
        return None
    return time.time() - theirs.timestamp()


def _way():
    """``none``, ``refused`` or ``open``, by what comes back of packets to nobody.

    A kernel refuses to each host once a second (icmp_ratelimit), and the proxy has it refuse as
    well: so whatever the netvm refuses to this qube meanwhile counts.
    """
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire,
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as heard,
        ):
            wire.connect(_NOBODY)
            netvm = _netvm()
            until = time.monotonic() + _WAIT
            while time.monotonic() < until:
                wire.send(b"\0")  # raises what was heard of those before
                if select.select([heard], [], [], 0.2)[0]:
                    packet, (source, _) = heard.recvfrom(256)
                    header = (packet[0] & 15) * 4
                    if source == netvm and packet[header : header + 2] in _PROHIBITED:
                        return "refused"
    except OSError as error:
        if error.errno == errno.ENETUNREACH:
            return "none"
        return "refused" if error.errno in _REFUSALS else "open"
    return "open"


def _netvm():
    """The address of the next qube on the way out, or None."""
    words = _run("ip", "-4", "route", "get", _NOBODY[0]).split()
    return words[words.index("via") + 1] if "via" in words else None


def _lists():
    # Not followed: the proxy's user can put a link there, also one that leads nowhere.
    files = [(file, file.lstat()) for file in sorted(qubes_vpn_dns_proxy.LISTS.glob("*.md"))]
    # And it can give them any name.
    return tuple(
        (_printable(str(file)), (time.time() - found.st_mtime) / 86400) for file, found in files
    )


def _run(*words):
    """What a program prints; nothing when it fails."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, env=_ENVIRON, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _span(seconds):
    """A time in words: 3 minutes, 2 days."""
    for name, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if abs(seconds) >= 2 * length:
            return f"{abs(seconds) / length:.0f} {name}"
    return f"{abs(seconds):.0f} seconds"


def _printable(text):
    return "".join(mark for mark in text if mark.isprintable()).strip(" .")
