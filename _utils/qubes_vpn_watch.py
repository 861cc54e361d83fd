# SPDX-License-Identifier: GPL-2.0-or-later
"""The watchdog: brings the tunnel up at the qube's start, and again when it is lost (R34).

NetworkManager does neither for a VPN: `autoconnect` does nothing for its type, `secondaries` of the
uplink deadlock after a lost carrier, and an openvpn that dies stays dead (seen with 1.52).

It opens nothing: whether a packet may pass is the killswitch's business alone, and without an open
killswitch it brings nothing up.  What it does is in :class:`Watch`, which only decides; :func:`run`
listens to NetworkManager's signals, looks, and does what was decided.
"""

import json
import os
import select
import signal
import subprocess
import time
import traceback
from pathlib import Path

import qubes_vpn_connections
import qubes_vpn_handshake
import qubes_vpn_nft
import qubes_vpn_nm
import qubes_vpn_tunnel
from qubes_vpn_killswitch import Unusable
from qubes_vpn_nft import Failed
from qubes_vpn_notice import Notices

#: Seconds after which it looks though nothing was heard, by whether the tunnel is up.
_EVERY = {False: 5, True: 15}
#: Seconds for which signals that come together are waited for.
_TOGETHER = 0.1
#: Seconds before an attempt is repeated: at first, and at most.
FIRST, MOST = 5, 60
#: So many packets sent over so many seconds, and none received: the other side is gone.
UNANSWERED, FOR = 10, 180
#: Seconds for which a connection that is up may have its interface down, or lack a way.
LOST = 4
#: NetworkManager's reason for a connection that somebody took down (NMActiveConnectionStateReason).
_BY_USER = 2
_LISTEN = (
    "busctl",
    "--json=short",
    "--match=type='signal',path_namespace='/org/freedesktop/NetworkManager/ActiveConnection',"
    "member='StateChanged'",
    "monitor",
)


class Watch:
    """What is to be done, from what was seen.  Times are seconds of one clock.

    It wants what was wished last: the pillar's profile, or what ``tunnel up`` or ``down`` said; and
    any of ours that somebody brings up with NetworkManager's own tools.  What a user takes down
    with them stays down, as with NetworkManager's own autoconnect, until the next wish.
    """

    def __init__(self):
        self.wanted = None  # a UUID
        self._wish = None
        self._last = ()  # paths of ours that were active at the last look
        self._known = {}  # path -> UUID, of ours that were ever active
        self._uplinks = set()
        self._failures, self._not_before = 0, 0

    def stopped(self, path):
        """A user took the connection *path* down."""
        if self.wanted and self._known.get(path) == self.wanted:
            self.wanted = None

    def look(self, wish, ours, seen, now):
        """``[("down" | "up", UUID)...]``, in order.

        wish: ``(stamp, UUID or None)``, another stamp is another wish.  ours: UUIDs that there are.
        seen: what is active, of :class:`qubes_vpn_nm.Active`.
        """
        if wish != self._wish:
            self._wish, self.wanted = wish, wish[1]
            self._at_once()
        active = [found for found in seen if found.uuid in ours and found.state != "deactivating"]
        for found in active:
            if found.path not in self._last:
                self.wanted = found.uuid
            self._known[found.path] = found.uuid
        self._last = {found.path for found in active}
        uplinks = {found.path for found in seen if found.uuid not in ours and found.is_uplink()}
        if uplinks - self._uplinks:
            self._at_once()
        self._uplinks = uplinks
        others = {found.uuid for found in active} - {self.wanted}
        return [("down", uuid) for uuid in sorted(others)] + self._mend(ours, seen, now)

    def forget(self):
        """What is up is taken down by this watchdog itself, to be made anew at once."""
        self._known = {path: uuid for path, uuid in self._known.items() if uuid != self.wanted}
        self._at_once()

    def _mend(self, ours, seen, now):
        states = {found.state for found in seen if found.uuid == self.wanted}
        if "activated" in states:
            self._at_once()
        if states or self.wanted not in ours or not self._uplinks or now < self._not_before:
            return []
        self._not_before = now + min(FIRST * 2**self._failures, MOST)
        self._failures = min(self._failures + 1, 8)
        return [("up", self.wanted)]

    def _at_once(self):
        self._failures = self._not_before = 0


class Pulse:
    """Whether a tunnel that NetworkManager calls activated is alive.  Times in seconds.

    Counted are the packets of its interface.  WireGuard counts its handshakes among them, so one
    whose handshakes are not answered is found as well.
    """

    def __init__(self):
        self._received, self._sent, self._since = None, 0, 0
        self._lost = None  # since when its interface is down, or lacks a way
        self._connection, self._ways = None, set()

    def trouble(self, connection, up, ways, sent, received, now):
        """Why it has to be made anew, in words; or None.

        connection: its path, another one is made anew already.  up: whether its interface is up.
        ways: of :func:`qubes_vpn_nft.ways`.  sent, received: what the interface has counted.
        """
        if connection != self._connection:
            self._connection, self._ways, self._lost = connection, set(), None
        self._ways = self._ways | ways
        well = up and ways and ways == self._ways
        self._lost = None if well else self._lost or now
        if self._lost and now - self._lost >= LOST:
            self._connection = None
            return "addresses or routes are gone" if up else "its interface is down"
        # An interface that was made anew counts from nothing.
        if received != self._received or sent <= self._sent:
            self._received, self._sent, self._since = received, sent, now
        if sent - self._sent >= UNANSWERED and now - self._since >= FOR:
            self._received = None
            return "no answers"
        return None


class Ears:
    """NetworkManager's signals, and the one that this process gets when the machine has slept."""

    def __init__(self):
        self._bus, self._text = None, b""
        self._slept, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGHUP, lambda *_: None)
        signal.set_wakeup_fd(wake)

    def hear(self, seconds):
        """Waits for a signal, or *seconds*.  Returns ``(slept, lines from the bus)``."""
        if self._bus is None or self._bus.poll() is not None:
            self._bus, self._text = subprocess.Popen(_LISTEN, stdout=subprocess.PIPE), b""
        bus = self._bus.stdout.fileno()
        ready, _, _ = select.select([bus, self._slept], [], [], seconds)
        if bus in ready:
            time.sleep(_TOGETHER)
            self._text += os.read(bus, 1 << 20) or self._silent()
        *lines, self._text = self._text.split(b"\n")
        slept = self._slept in ready and bool(os.read(self._slept, 4096))
        return slept, lines

    def _silent(self):
        """The bus is gone: as if nothing was heard, and not at once again."""
        self._bus.wait()
        time.sleep(1)
        return b""


def stopped_by_user(line):
    """The path of the connection that a user takes down, by a *line* from the bus; or None."""
    try:
        said = json.loads(line)
        return said["path"] if said["payload"]["data"][1] == _BY_USER else None
    except (ValueError, LookupError, TypeError):
        return None


def run():
    """The watchdog; never returns."""
    watch, pulse, notices, ears = Watch(), Pulse(), Notices(), Ears()
    slept = up = False
    while True:
        before, up = up, False
        try:
            # In the middle of another one's work a tunnel that is taken down looks like a lost one.
            with qubes_vpn_tunnel.alone(patience=0):
                done = turn(watch, pulse, slept)
            up, slept = bool(done), slept and done is None
        except qubes_vpn_tunnel.Busy:
            up = before  # who is at work says what comes of it
        except (Failed, Unusable, OSError) as error:
            print(f"qubes-vpn: {error}", flush=True)  # systemd's journal
        except Exception as error:  # whatever it was: without a watchdog a lost tunnel stays lost
            print(f"qubes-vpn: {_where(error)}", flush=True)
        notices.note(up, time.monotonic())
        woke, lines = ears.hear(_EVERY[up])
        slept = slept or woke
        for path in filter(None, map(stopped_by_user, lines)):
            watch.stopped(path)


def _where(error):
    """What went wrong, and where, without the text of *error*: that may hold what was read."""
    steps = traceback.extract_tb(error.__traceback__)
    places = (f"{Path(step.filename).name}:{step.lineno}" for step in steps)
    return f"{type(error).__name__} at {', '.join(places)}"


def turn(watch, pulse, slept):
    """Looks once, and does what is to be done.

    Returns whether the tunnel is up; None when NetworkManager did not say, so that nothing could
    be done.  slept: whether the machine slept since the last turn that could do something.
    """
    try:
        seen = qubes_vpn_nm.active()
    except Failed:
        return None
    settings = qubes_vpn_connections.configured()
    if settings is None:  # nothing to do yet
        return False
    now, uuids, wish = time.monotonic(), qubes_vpn_connections.uuids(), qubes_vpn_tunnel.wished()
    for action, uuid in watch.look(wish, uuids.keys(), seen, now):
        if action == "down":
            qubes_vpn_nm.down(uuid)
        elif qubes_vpn_nft.is_open():
            print(f"qubes-vpn: bringing up {uuids[uuid]}", flush=True)
            qubes_vpn_nm.end_abandoned(settings.interface)
            qubes_vpn_nm.up(uuid, wait=False)
    mine = [one for one in seen if one.uuid == watch.wanted and one.state == "activated"]
    if not mine:
        return False
    there = qubes_vpn_nft.is_up(settings.interface)
    up = qubes_vpn_tunnel.state(watch.wanted, seen, settings.interface) == "up"
    if there and not up and settings.kind == "wireguard":
        qubes_vpn_handshake.provoke(settings.interface)
    ways = qubes_vpn_nft.ways(settings.interface) if there else set()
    counted = qubes_vpn_nft.packets(settings.interface)
    trouble = pulse.trouble(mine[0].path, there, ways, *counted, now)
    if slept or trouble:
        why = trouble or "the machine slept"
        print(f"qubes-vpn: {why}: making the tunnel anew", flush=True)
        watch.forget()
        qubes_vpn_nm.down(watch.wanted)
    return up
