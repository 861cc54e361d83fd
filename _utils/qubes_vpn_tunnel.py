# SPDX-License-Identifier: GPL-2.0-or-later
"""The tunnel of the VPN qube that this runs in: a provider's profiles as NetworkManager's.

The profile in ``/rw/config/vpn/credentials`` is the only copy that is kept.  At each start of the
qube it becomes a keyfile below /run, before NetworkManager starts, so nothing has to be persisted
and an edit with nmcli does not outlive a restart.  Without a profile that can be used there is no
connection, and the killswitch keeps the qube closed.
"""

import os
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import qubes_vpn_configure
import qubes_vpn_credentials
import qubes_vpn_endpoints
import qubes_vpn_keyfile
import qubes_vpn_killswitch
import qubes_vpn_nft
import qubes_vpn_nm
import qubes_vpn_ruleset
from qubes_vpn_error import UserError
from qubes_vpn_killswitch import CONFIG, IN_TEMPLATE, SERVICES, Unusable
from qubes_vpn_nft import Failed
from qubes_vpn_problem import show
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
#: Seconds for which a connection that is being made is waited for.
_PATIENCE = 60

_ENABLED = Path("/etc/systemd/system/multi-user.target.wants")
_NEEDED = (
    IN_TEMPLATE / "tunnel",
    _ENABLED / "qubes-vpn-tunnel.service",
    _ENABLED / "qubes-vpn-watch.service",
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
        profile = WISH.read_text()
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
    that activated, when openvpn makes it anew because the server gave another address.
    """
    states = {found.state for found in seen or () if found.uuid == uuid}
    if states == {"activated"} and qubes_vpn_nft.is_up(interface):
        return "up"
    return "connecting" if states else "down"


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
    differing = differences(made)
    # One that was edited with nmcli is no more among our files.
    was = uuids() | {connection.uuid: name for name, connection in made.items()}
    down([uuid for uuid, name in was.items() if name in differing or name != profile])
    qubes_vpn_nm.load(map(keyfile, write(made)))
    try:
        if profile:
            _bring_up(made[profile].uuid, settings)
    finally:
        wish(profile)  # if it is not up yet, the watchdog goes on


def _bring_up(uuid, settings):
    until = time.monotonic() + _PATIENCE
    while (now := state(uuid, qubes_vpn_nm.active(), settings.interface)) == "connecting":
        # the watchdog is at it
        if time.monotonic() > until:
            raise Failed(f"no connection within {_PATIENCE} seconds")
        time.sleep(0.2)
    if now == "down":
        if not qubes_vpn_nft.is_open():
            raise Failed("the killswitch is not open: no tunnel without it")
        qubes_vpn_nm.end_abandoned(settings.interface)
        qubes_vpn_nm.up(uuid)
    if not qubes_vpn_nft.is_tunnel(settings.interface):
        raise Failed(f"connected, but {settings.interface} is no tunnel: nothing goes through it")


def stop():
    """Takes the tunnel down, until it is brought up again or the qube restarts."""
    wish(None)
    down(uuids())


def down(which):
    """Takes the connections *which*, UUIDs, down; raises ``Failed``."""
    for found in qubes_vpn_nm.active() or ():
        if found.uuid in which:
            qubes_vpn_nm.down(found.uuid)


def status():
    """What holds in this qube, as plain data; changes nothing.

    ``state``: of the tunnel, ``up``, ``connecting`` or ``down``; ``profile``: whose it is, or the
    pillar's; ``connections``: profile -> the same for each; ``killswitch``: its state.
    """
    report = {"state": "down", "profile": None, "interface": None, "connections": {}}
    report["killswitch"] = qubes_vpn_killswitch.status()["state"]
    report["problems"] = lacking()
    try:
        settings = configured()
        if settings is None:
            raise Unusable(f"{CONF}: not there. {_ANEW}")
        made = connections(settings, pinned())
    except Unusable as error:
        report["problems"] += error.args
        return report
    report |= {"profile": settings.profile, "interface": settings.interface}
    report["problems"] += made.problems.values()
    stale = differences(made.made)
    seen, names = qubes_vpn_nm.active(), uuids()
    if seen is None:
        report["problems"].append("NetworkManager does not answer")
    for uuid, profile in names.items():
        report["connections"][profile] = now = state(uuid, seen, settings.interface)
        if now != "down" or profile == settings.profile:
            report |= {"profile": profile, "state": now}
    for profile, what in stale.items():
        report["problems"].append(f"{profile}: its connection is not as its file says ({what})")
    if report["state"] == "up" and not qubes_vpn_nft.is_tunnel(settings.interface):
        report["problems"].append(f"{settings.interface} is no tunnel: nothing goes through it")
    if report["killswitch"] != "open":
        report["problems"].append("the killswitch is not open: no tunnel without it")
    return report
