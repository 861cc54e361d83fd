# SPDX-License-Identifier: GPL-2.0-or-later
"""The tunnel of the VPN qube that this runs in: a provider's profiles as NetworkManager's.

The profile in ``/rw/config/vpn/credentials`` is the only copy that is kept.  At each start of the
qube it becomes a keyfile below /run, before NetworkManager starts, so nothing has to be persisted
and an edit with nmcli does not outlive a restart.  Without a profile that can be used there is no
connection, and the killswitch keeps the qube closed.
"""

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import qubes_vpn_configure
import qubes_vpn_credentials
import qubes_vpn_endpoints
import qubes_vpn_handshake
import qubes_vpn_keyfile
import qubes_vpn_killswitch
import qubes_vpn_nft
import qubes_vpn_nm
import qubes_vpn_ruleset
from qubes_vpn_error import UserError
from qubes_vpn_killswitch import CONFIG, IN_TEMPLATE, SERVICES, Unusable
from qubes_vpn_nft import Failed
from qubes_vpn_problem import os_words, show
from qubes_vpn_profile_data import ENDINGS

#: What the pillar says of the tunnel; no secret.
CONF = CONFIG / "tunnel.conf"
CREDENTIALS = CONFIG / "credentials"
#: What the keyfiles name: certificates and keys, a folder for each connection.
FILES = Path(qubes_vpn_keyfile.FILES)
#: Which profile is wished for, until the qube restarts: the name of its file, or nothing.
WISH = FILES / "wish"
#: NetworkManager looks here before it looks into /etc (seen with 1.52).
KEYFILES = Path("/run/NetworkManager/system-connections")
_PREFIX, _SUFFIX = "qubes-vpn-", ".nmconnection"
#: Seconds for which a connection that is being made is waited for, and for another `tunnel`.
_PATIENCE, _TURN = 60, 150
_WATCHDOG = "qubes-vpn-watch"

_ENABLED = Path("/etc/systemd/system/multi-user.target.wants")
_NEEDED = (
    IN_TEMPLATE / "tunnel",
    _ENABLED / "qubes-vpn-tunnel.service",
    _ENABLED / f"{_WATCHDOG}.service",
)


class Settings(NamedTuple):
    """What the pillar says.  profile: file name of the active one.  further: of the others."""

    kind: str
    interface: str
    profile: str
    further: tuple = ()

    def profiles(self):
        """Every profile's file name, the active one first."""
        return (self.profile, *self.further)


class Connections(NamedTuple):
    """Made of profiles, by their file names.  made: ``qubes_vpn_keyfile.Connection``.

    problems: texts for those that cannot be used.
    """

    made: dict
    problems: dict


def read_settings(data, where=CONF):
    """:class:`Settings` from *data*, the bytes of a file called *where*; raises :class:`Unusable`.

    Lines ``kind = ``, ``interface = ``, ``profile = `` and any number of ``further = ``.
    """
    found, further = {}, []
    for number, line in enumerate(data.decode("ascii", "replace").splitlines(), 1):
        key, equals, value = (part.strip() for part in line.partition("#")[0].partition("="))
        if key == "further" and value:
            further.append(value)
        elif key in ("kind", "interface", "profile") and value and key not in found:
            found[key] = value
        elif key or equals:
            raise Unusable(f"{where}:{number}: {show(line.strip())} is not known. {_ANEW}")
    if len(found) < 3 or found["kind"] not in ENDINGS:
        raise Unusable(f"{where}: kind, interface or profile is missing. {_ANEW}")
    if wrong := qubes_vpn_ruleset.interface(found["interface"]):
        raise Unusable(f"{where}: {wrong}. {_ANEW}")
    for name in (found["profile"], *further):
        if name != Path(name).name or name.startswith("."):
            raise Unusable(f"{where}: {show(name)} is not a bare file name. {_ANEW}")
    return Settings(**found, further=tuple(further))


_ANEW = "Apply the formula to this qube: it writes the file."


def write_settings(settings):
    """The text of a ``tunnel.conf``."""
    lines = [f"{key} = {getattr(settings, key)}\n" for key in ("kind", "interface", "profile")]
    return "".join([*lines, *(f"further = {name}\n" for name in settings.further)])


def configured():
    """The qube's :class:`Settings`, None when it has none; raises :class:`Unusable`."""
    data = qubes_vpn_killswitch.read(CONF, missing=b"")
    return read_settings(data) if data else None


def pinned():
    """The endpoints that the killswitch is configured for, as texts; raises :class:`Unusable`."""
    path = CONFIG / "endpoints.txt"
    try:
        found = qubes_vpn_endpoints.read(qubes_vpn_killswitch.read(path), path)
    except qubes_vpn_endpoints.NotEndpoints as error:
        raise Unusable(*error.problems) from None
    return [endpoint.text for endpoint in found]


def connections(settings, endpoints):
    """The :class:`Connections` of all profiles of *settings*; reads, and changes nothing."""
    made, problems = {}, {}
    for profile in settings.profiles():
        try:
            made[profile] = _connection(settings, profile, endpoints)
        except UserError as error:
            problems[profile] = str(error)
        except Exception as error:  # a profile is somebody else's text: whatever it does, closed
            problems[profile] = f"{CREDENTIALS / profile}: cannot be read ({type(error).__name__})"
    return Connections(made, problems)


def _connection(settings, profile, endpoints):
    path = CREDENTIALS / profile
    if not os.path.lexists(path):
        raise UserError(
            "not there",
            f"In the qube that has the provider's file: qvm-copy {profile}  Then in this one: "
            + "; ".join(qubes_vpn_credentials.bring([profile])),
            file=path,
        )
    ending = ENDINGS[settings.kind]
    if path.suffix.lower() != ending:
        raise UserError(
            f"not a profile of kind {settings.kind}, whose name ends in {ending}",
            "Change the pillar's 'kind' or 'profile'.",
            file=path,
        )
    return qubes_vpn_keyfile.connection(CREDENTIALS, profile, settings.interface, endpoints)


def keyfile(profile):
    """Where a profile's keyfile is."""
    return KEYFILES / f"{_PREFIX}{profile}{_SUFFIX}"


def uuids():
    """``{UUID: profile}`` of every keyfile of ours that is there."""
    found = {}
    for path in sorted(KEYFILES.glob(f"{_PREFIX}*{_SUFFIX}")):
        profile = path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        lines = path.read_text("utf-8", "replace").splitlines()
        uuid = next((line for line in lines if line.startswith("uuid=")), f"uuid={profile}")
        found[uuid.removeprefix("uuid=")] = profile
    return found


def ours(seen):
    """``{UUID: profile}`` of our connections: of every keyfile, and *seen* without one.

    One stays up when its keyfile is removed, or when somebody edits it with nmcli.
    """
    names = {found.uuid: found.name.removeprefix(_PREFIX).replace("\\", "") for found in seen}
    live = {uuid: name for uuid, name in names.items() if qubes_vpn_keyfile.uuid_of(name) == uuid}
    return live | uuids()


def differences(made):
    """``{profile: "new" | "changed" | "removed"}``: what is there of connections, against *made*.

    made: ``{profile: qubes_vpn_keyfile.Connection}``.
    """
    have = uuids().values()
    words = {profile: "removed" for profile in have if profile not in made}
    for profile, connection in made.items():
        if any(_content(path) != data for path, data in _files(profile, connection).items()):
            words[profile] = "changed" if profile in have else "new"
    return words


def write(made):
    """Makes the connections so, and no other of ours.  Returns :func:`differences`."""
    differing = differences(made)
    for uuid, profile in uuids().items():
        if profile in differing:
            keyfile(profile).unlink()
            shutil.rmtree(FILES / uuid, ignore_errors=True)
    for profile, connection in made.items():
        if profile in differing:
            # The keyfile last: NetworkManager never finds one without what it names.
            KEYFILES.parent.mkdir(mode=0o755, parents=True, exist_ok=True)  # NetworkManager's own
            for path, data in reversed(_files(profile, connection).items()):
                for folder in (path.parent.parent, path.parent):
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                qubes_vpn_configure.replace(path, data, 0o600)
    return differing


def _files(profile, connection):
    files = {Path(path): data for path, data in connection.files.items()}
    return {keyfile(profile): connection.text.encode(), **files}


def _content(path):
    try:
        return path.read_bytes()
    except OSError:
        return None


def prepare():
    """Makes the keyfiles from what is in /rw.  Returns problems; what has one has no keyfile."""
    try:
        settings = configured()
        made = connections(settings, pinned()) if settings else Connections({}, {})
    except Unusable as error:
        write({})
        return list(error.args)
    write(made.made)
    wish(settings and settings.profile)
    return list(made.problems.values())


def wish(profile):
    """Tells the watchdog which *profile* is to be up; None: none."""
    FILES.mkdir(mode=0o700, exist_ok=True)
    qubes_vpn_configure.replace(WISH, (profile or "").encode(), 0o644)


def wished():
    """``(when, UUID or None)`` of the last wish; the time in nanoseconds."""
    try:
        profile = WISH.read_text("utf-8", "replace")
        return WISH.stat().st_mtime_ns, next(
            (uuid for uuid, name in uuids().items() if name == profile), None
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
    return {profile: state(uuid, seen, interface) for uuid, profile in ours(seen).items()}


def up(profile=None):
    """Brings the tunnel up with *profile*, or the pillar's; raises ``Failed`` or ``Unusable``."""
    settings = configured()
    if settings is None:
        raise Unusable(f"{CONF}: not there. {_ANEW}")
    profile = profile or settings.profile
    if profile not in settings.profiles():
        raise Unusable(f"{show(profile)} is not in {CONF}. Add it to the pillar's 'profiles'.")
    made = connections(settings, pinned())
    if profile in made.problems:
        raise Unusable(made.problems[profile])
    make(settings, made.made, profile)


def make(settings, made, profile):
    """There are the connections *made*, and that of *profile* is up, or none; raises ``Failed``.

    What is up and differs is taken down first.
    """
    with alone():
        differing = differences(made)
        seen = qubes_vpn_nm.active()
        was = ours(seen) | {connection.uuid: name for name, connection in made.items()}
        _down(seen, [uuid for uuid, name in was.items() if name in differing or name != profile])
        qubes_vpn_nm.load(map(keyfile, write(made)))
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
    FILES.mkdir(mode=0o700, exist_ok=True)
    folder = os.open(FILES, os.O_RDONLY | os.O_DIRECTORY)
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
        _down(seen, ours(seen))
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
        settings = configured()
        if settings is None:
            raise Unusable(f"{CONF}: not there. {_ANEW}")
        made = connections(settings, pinned())
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
        for name, what in differences(made.made).items():
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
