# SPDX-License-Identifier: GPL-2.0-or-later
"""The tunnel of the VPN qube that this runs in: one of its connections, brought up and taken down.

Without a profile that can be used there is no connection, and the killswitch keeps the qube closed.
"""

import contextlib
import fcntl
import os
import time
from pathlib import Path

import qubes_vpn_configure
import qubes_vpn_connections
import qubes_vpn_handshake
import qubes_vpn_killswitch
import qubes_vpn_nft
import qubes_vpn_nm
from qubes_vpn_connections import Connections
from qubes_vpn_killswitch import IN_TEMPLATE, SERVICES, Unusable
from qubes_vpn_nft import Failed
from qubes_vpn_problem import os_words, show

#: Which profile is wished for, until the qube restarts: the name of its file, or nothing.
WISH = qubes_vpn_connections.FILES / "wish"
#: Seconds for which a connection that is being made is waited for, and for another `tunnel`.
_PATIENCE, _TURN = 60, 150
_WATCHDOG = "qubes-vpn-watch"

_ENABLED = Path("/etc/systemd/system/multi-user.target.wants")
_NEEDED = (
    IN_TEMPLATE / "tunnel",
    _ENABLED / "qubes-vpn-tunnel.service",
    _ENABLED / f"{_WATCHDOG}.service",
)


def prepare():
    """Makes the keyfiles from what is in /rw.  Returns problems; what has one has no keyfile."""
    try:
        settings = qubes_vpn_connections.configured()
        made = Connections({}, {})
        if settings:
            made = qubes_vpn_connections.of_profiles(settings, qubes_vpn_connections.pinned())
    except Unusable as error:
        qubes_vpn_connections.write({})
        return list(error.args)
    qubes_vpn_connections.write(made.made)
    wish(settings and settings.profile)
    return list(made.problems.values())


def wish(profile):
    """Tells the watchdog which *profile* is to be up; None: none."""
    qubes_vpn_connections.FILES.mkdir(mode=0o700, exist_ok=True)
    qubes_vpn_configure.replace(WISH, (profile or "").encode(), 0o644)


def wished():
    """``(when, UUID or None)`` of the last wish; the time in nanoseconds."""
    try:
        profile = WISH.read_text("utf-8", "replace")
        return WISH.stat().st_mtime_ns, next(
            (uuid for uuid, name in qubes_vpn_connections.uuids().items() if name == profile), None
        )
    except FileNotFoundError:
        return 0, None


def lacking(here=True):
    """What is missing for a tunnel to be made, at this start and the next.

    here: in this qube, and not only in what is made from it, which has other services.
    """
    if not (IN_TEMPLATE / "tunnel").exists():
        return [
            "this qube's template has no tunnel: apply the formula to the template, restart this "
            "qube, and run this again"
        ]
    problems = [f"{path} is not there. Apply the formula" for path in _NEEDED if not path.exists()]
    if here and not (SERVICES / "network-manager").exists():
        problems.append(
            "the service network-manager is off. In dom0: qvm-service QUBE network-manager on; "
            "then restart this qube. Not in one that a disposable is made from: it has no tunnel"
        )
    return problems


def state(uuid, seen, interface):
    """``up``, ``connecting`` or ``down``: a connection, by what NetworkManager has *seen*.

    Up is only what has its interface up: NetworkManager 1.52 goes on with the old one, and calls
    that activated, when openvpn makes it anew because the server gave another address.  And only
    what the server has answered, while there is an uplink: NetworkManager calls every WireGuard
    connection activated, also when the uplink is gone.  And only what routes lead into: it does
    not notice that somebody has removed them.  Raises ``Failed`` when wg or ip cannot say.
    """
    found = [one for one in seen if one.uuid == uuid]
    if not found:
        return "down"
    if {one.state for one in found} != {"activated"} or not qubes_vpn_nft.is_up(interface):
        return "connecting"
    if not any(one.is_uplink() for one in seen) or not qubes_vpn_nft.leads(interface):
        return "connecting"
    if found[0].type == "wireguard" and not qubes_vpn_handshake.made(interface):
        return "connecting"
    return "up"


def states(seen, interface):
    """``{profile: state}`` of our connections; raises ``Failed``."""
    return {
        profile: state(uuid, seen, interface)
        for uuid, profile in qubes_vpn_connections.ours(seen).items()
    }


def up(profile=None):
    """Brings the tunnel up with *profile*, or the pillar's; raises ``Failed`` or ``Unusable``."""
    settings = qubes_vpn_connections.required()
    profile = profile or settings.profile
    if profile not in settings.profiles():
        where = qubes_vpn_connections.CONF
        raise Unusable(f"{show(profile)} is not in {where}. Add it to the pillar's 'profiles'.")
    made = qubes_vpn_connections.of_profiles(settings, qubes_vpn_connections.pinned())
    if profile in made.problems:
        raise made.refusal(profile)
    make(settings, made.made, profile)


def make(settings, made, profile):
    """There are the connections *made*, and that of *profile* is up, or none; raises ``Failed``.

    What is up and differs is taken down first.
    """
    with alone():
        differing = qubes_vpn_connections.differences(made)
        seen = qubes_vpn_nm.active()
        was = qubes_vpn_connections.ours(seen) | {
            connection.uuid: name for name, connection in made.items()
        }
        _down(seen, [uuid for uuid, name in was.items() if name in differing or name != profile])
        qubes_vpn_nm.load(map(qubes_vpn_connections.keyfile, qubes_vpn_connections.write(made)))
        try:
            if profile:
                _bring_up(made[profile].uuid, settings)
        finally:
            wish(profile)  # if it is not up yet, the watchdog goes on


class Busy(Failed):
    """Another one brings up or takes down."""


@contextlib.contextmanager
def alone(patience=_TURN):
    """One at a time brings up or takes down: `tunnel`, the state, the watchdog.

    Raises :class:`Busy` when it is not this one's turn for *patience* seconds.
    The lock is on a folder that only root can open, so nobody else can hold it.
    """
    qubes_vpn_connections.FILES.mkdir(mode=0o700, exist_ok=True)
    folder = os.open(qubes_vpn_connections.FILES, os.O_RDONLY | os.O_DIRECTORY)
    try:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise Busy("another `tunnel` or state is at work, and does not end") from None
                time.sleep(0.1)
        yield
    finally:
        os.close(folder)


def _bring_up(uuid, settings):
    """It is up when this returns, whatever nmcli said."""
    until, tried = time.monotonic() + _PATIENCE, False
    while (now := state(uuid, qubes_vpn_nm.active(), settings.interface)) != "up":
        if time.monotonic() > until:
            raise Failed(_NO_ANSWER[settings.kind])
        if now == "down":
            if tried:
                raise Failed("the connection was made, and is gone again")
            if not qubes_vpn_nft.is_open():
                raise Failed("the killswitch is not open: no tunnel without it")
            qubes_vpn_nm.end_abandoned(settings.interface)
            qubes_vpn_nm.up(uuid)
            tried = True
            continue
        if settings.kind == "wireguard" and qubes_vpn_nft.is_up(settings.interface):
            qubes_vpn_handshake.provoke(settings.interface)
        time.sleep(_AGAIN[settings.kind])
    if not qubes_vpn_nft.is_tunnel(settings.interface):
        raise Failed(f"connected, but {settings.interface} is no tunnel: nothing goes through it")


#: Seconds between two looks; WireGuard does not begin more than one handshake in five.
_AGAIN = {"wireguard": 1, "openvpn": 0.2}
_NO_ANSWER = {
    "wireguard": f"no answer from the server for {_PATIENCE} seconds. Are the profile's keys and "
    "endpoint still those of the provider, and is the uplink online",
    "openvpn": f"no connection within {_PATIENCE} seconds",
}


def stop():
    """Takes the tunnel down, until it is brought up again or the qube restarts.

    Raises ``Failed``; what cannot be written does not keep it up.
    """
    trouble = ""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(alone())
            wish(None)
        except OSError as error:
            trouble = os_words(error)
        seen = qubes_vpn_nm.active()
        _down(seen, qubes_vpn_connections.ours(seen))
    if trouble:
        raise Failed(f"the tunnel is down, but may come up by itself: {trouble}")


def _down(seen, which):
    """Takes those of *seen* down whose UUIDs are among *which*; raises ``Failed``."""
    for found in seen:
        if found.uuid in which:
            qubes_vpn_nm.down(found.uuid)


def status():
    """What holds in this qube, as plain data; changes nothing.

    ``state``: of the tunnel, ``up``, ``connecting``, ``down`` or ``unknown``; ``profile``: whose it
    is, or the pillar's; ``connections``: profile -> the same for each; ``killswitch``: its state.
    """
    killswitch = qubes_vpn_killswitch.status()
    problems = [*lacking(), *_unwatched()]
    settings, made = None, Connections({}, {})
    try:
        settings = qubes_vpn_connections.required()
        made = qubes_vpn_connections.of_profiles(settings, qubes_vpn_connections.pinned())
    except Unusable as error:
        problems += error.args
    # What is up is up whatever its file says by now; the killswitch knows the interface as well.
    interface = settings.interface if settings else next(iter(killswitch.get("interfaces", ())), "")
    profile, now, found = settings and settings.profile, "down", {}
    try:
        found = states(qubes_vpn_nm.active(), interface)
    except Failed as error:
        now = "unknown"
        problems.append(str(error))
    for word in ("up", "connecting"):
        if word in found.values():
            profile, now = next((name, word) for name in found if found[name] == word)
            break
    problems += made.problems.values()
    if settings:
        for name, what in qubes_vpn_connections.differences(made.made).items():
            problems.append(f"{name}: its connection is not as its file says ({what})")
    if now == "up" and not qubes_vpn_nft.is_tunnel(interface):
        problems.append(f"{interface} is no tunnel: nothing goes through it")
    if killswitch["state"] != "open":
        problems.append("the killswitch is not open: no tunnel without it")
    report = {"state": now, "profile": profile, "interface": interface or None}
    return report | {
        "connections": found,
        "killswitch": killswitch["state"],
        "problems": problems,
    }


def _unwatched():
    """Whether nobody would bring a lost tunnel back, in words."""
    try:
        qubes_vpn_nft.run("systemctl", "is-active", _WATCHDOG)
    except Failed:
        return [f"the watchdog does not run: a lost tunnel stays lost. systemctl start {_WATCHDOG}"]
    return []
