# SPDX-License-Identifier: GPL-2.0-or-later
"""Opens a resolver qube for clients once the resolver answers, closes it when it stops (R52).

Closing keeps no packet in: clients' port 53 leads to this qube's own and nowhere else, open or not.
It keeps whatever else might listen there from answering clients when the resolver is gone, tells
them at once instead of letting them wait, and makes ``status`` true.

:class:`Watch` decides; :func:`run` asks, and does what was decided.  :class:`Restarts` starts a
dnscrypt-proxy anew that runs and has answered nobody for long.
"""

import time

import qubes_vpn_dns_ask
import qubes_vpn_dns_health
import qubes_vpn_nft
import qubes_vpn_resolver
from qubes_vpn_dns_proxy import UNIT

#: Seconds for which it is asked: longer than dnscrypt-proxy waits for a server, by UDP and by TCP.
PATIENCE = 11
#: That often in a row it did not answer before it is closed: one lost packet closes nothing.
UNANSWERED = 2
#: Seconds until it looks again: when it answered, when it did not, and when it has long been so
#: that nothing works.
_ANSWERED, _SOON, _LATER = 15, 0.2, 3
#: Seconds without an answer after which the journal is told why: at the qube's start it takes some.
_SILENT = 30
#: Seconds without an answer until dnscrypt-proxy is started anew.  Each time after takes twice as
#: long as the one before, but no longer than the second: whoever is down is not helped by it.
_ANEW, _AT_MOST = 60, 600
_RUNS = {"LoadState=loaded", "ActiveState=active"}
_RESTARTED = (
    "dnscrypt-proxy runs but has long answered nobody: it is restarted, to fetch its servers' "
    "certificates anew, and again every few minutes until it answers"
)


class Watch:
    """When to open and when to close."""

    def __init__(self):
        self._unanswered = 0

    def look(self, answers, is_open):
        """``open_up``, ``close`` or None.

        answers: whether the resolver has answered a real question now.  is_open: for clients.
        """
        self._unanswered = 0 if answers else self._unanswered + 1
        if answers and not is_open:
            return "open_up"
        return "close" if is_open and self._unanswered >= UNANSWERED else None


class Restarts:
    """Those of dnscrypt-proxy in one silence, which begins now.

    2.1.8 fetches the certificates of DNSCrypt servers when it starts, and then only every
    ``cert_refresh_minutes`` if any was good (its ``proxy.go``).  So after a long suspend, or when a
    server comes back with another key, it may know no good one, and have no names for hours.
    """

    def __init__(self):
        self._wait, self._told = _ANEW, False
        self._next = time.monotonic() + _ANEW

    def due(self):
        """Whether it has been silent for so long."""
        return time.monotonic() >= self._next

    def again(self):
        """Restarts it if it runs; the lines to say.  For who is closed: it serves nobody then."""
        try:
            shown = qubes_vpn_nft.run("systemctl", "show", UNIT, "--property=LoadState,ActiveState")
            if set(shown.split()) != _RUNS:
                # A start may take minutes, with lists to fetch.  Off or masked is somebody's will.
                self._next = time.monotonic() + _ANEW
                return []
            self._wait = min(2 * self._wait, _AT_MOST)
            self._next = time.monotonic() + self._wait
            qubes_vpn_nft.run("systemctl", "--no-block", "try-restart", UNIT)
        except qubes_vpn_nft.Failed as error:
            return [f"dnscrypt-proxy answers nobody and cannot be restarted: {error}"]
        told, self._told = self._told, True
        return [] if told else [_RESTARTED]


def run(library):
    """The watch; never returns.  library: of :mod:`qubes_vpn_resolver`."""
    watch, silent_since, told, said = Watch(), time.monotonic(), False, []
    restarts, known = Restarts(), None
    while True:
        why, lines, pause = "not asked yet", [], _SOON
        try:
            if is_open := qubes_vpn_resolver.is_open():
                why = qubes_vpn_dns_ask.ask(PATIENCE)
            else:
                # All that can be done before the answer, so that clients have the next one.
                known = known or qubes_vpn_resolver.prepared(library)
                why = qubes_vpn_dns_ask.wait(PATIENCE)
            lines = turn(watch, library, why, is_open, known)
            if why is None:
                silent_since, told, restarts = time.monotonic(), False, Restarts()
            elif not told and time.monotonic() - silent_since > _SILENT:
                told = True
                lines = [*lines, *qubes_vpn_dns_health.problems(why)]
            elif restarts.due() and not qubes_vpn_resolver.is_open():
                lines = [*lines, *restarts.again()]
        except Exception as error:  # whatever it was: without a watch nobody opens or closes
            lines = [f"{type(error).__name__}: {error}"]
            pause = _LATER if time.monotonic() - silent_since > _SILENT else _SOON
        if lines != said:  # what goes on being so is said once
            for line in lines:
                print(f"qubes-vpn resolver: {line}", flush=True)  # systemd's journal
            said = lines
        time.sleep(_ANSWERED if why is None else pause)


def turn(watch, library, why, is_open, known):
    """Does what follows from the last question; the lines to say about it.

    why: of :func:`qubes_vpn_dns_ask.ask`.  is_open: for clients.  known: of
    :func:`qubes_vpn_resolver.open_up`.
    """
    action = watch.look(why is None, is_open)
    if action is None:
        return []
    if action == "open_up":
        result = qubes_vpn_resolver.open_up(library, known)
    else:
        result = qubes_vpn_resolver.close(library)
    reason = why or "it answers, but cannot be opened"
    told = "clients are answered" if result.open else f"closed to clients: {reason}"
    return [told, *result.problems]
