# SPDX-License-Identifier: GPL-2.0-or-later
"""NetworkManager's connections of a VPN qube, made of a provider's profiles.

The profile in ``/rw/config/vpn/credentials`` is the only copy that is kept.  At each start of the
qube it becomes a keyfile below /run, before NetworkManager starts, so nothing has to be persisted
and an edit with nmcli does not outlive a restart.
"""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import qubes_vpn_configure
import qubes_vpn_credentials
import qubes_vpn_endpoints
import qubes_vpn_keyfile
import qubes_vpn_killswitch
import qubes_vpn_pins
import qubes_vpn_ruleset
from qubes_vpn_error import UserError
from qubes_vpn_killswitch import CONFIG, Unusable
from qubes_vpn_problem import show
from qubes_vpn_profile_data import ENDINGS

#: What the pillar says of the tunnel; no secret.
CONF = CONFIG / "tunnel.conf"
CREDENTIALS = CONFIG / "credentials"
#: What the keyfiles name: certificates and keys, a folder for each connection.
FILES = Path(qubes_vpn_keyfile.FILES)
#: NetworkManager looks here before it looks into /etc (seen with 1.52).
KEYFILES = Path("/run/NetworkManager/system-connections")
_PREFIX, _SUFFIX = "qubes-vpn-", ".nmconnection"
_ANEW = "Apply the formula to this qube: it writes the file."


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

    problems: texts for those that cannot be used.  unpinned: who of these are so only because the
    killswitch lets nobody reach a server of theirs.
    """

    made: dict
    problems: dict
    unpinned: frozenset = frozenset()

    def refusal(self, profile):
        """The exception for one that cannot be used."""
        kind = NotPinned if profile in self.unpinned else Unusable
        return kind(self.problems[profile])


class NotPinned(Unusable):
    """A profile one of whose servers is not among the endpoints."""


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


def write_settings(settings):
    """The text of a ``tunnel.conf``."""
    lines = [f"{key} = {getattr(settings, key)}\n" for key in ("kind", "interface", "profile")]
    return "".join([*lines, *(f"further = {name}\n" for name in settings.further)])


def configured():
    """The qube's :class:`Settings`, None when it has none; raises :class:`Unusable`."""
    data = qubes_vpn_killswitch.read_ours(CONF, missing=b"")
    return read_settings(data) if data else None


def required():
    """The qube's :class:`Settings`; raises :class:`Unusable`, also when it has none."""
    settings = configured()
    if settings is None:
        raise Unusable(f"{CONF}: not there. {_ANEW}")
    return settings


def pinned():
    """The endpoints that the killswitch is configured for, as texts; raises :class:`Unusable`."""
    path = CONFIG / "endpoints.txt"
    try:
        found = qubes_vpn_endpoints.read(qubes_vpn_killswitch.read_ours(path), path)
    except qubes_vpn_endpoints.NotEndpoints as error:
        raise Unusable(*error.problems) from None
    return [endpoint.text for endpoint in found]


def of_profiles(settings, endpoints):
    """The :class:`Connections` of all profiles of *settings*; reads, and changes nothing."""
    made, problems, unpinned = {}, {}, set()
    for profile in settings.profiles():
        try:
            made[profile] = _connection(settings, profile, endpoints)
        except UserError as error:
            problems[profile] = str(error)
            if isinstance(error, qubes_vpn_pins.Missing):
                unpinned.add(profile)
        except Exception as error:  # a profile is somebody else's text: whatever it does, closed
            problems[profile] = f"{CREDENTIALS / profile}: cannot be read ({type(error).__name__})"
    return Connections(made, problems, frozenset(unpinned))


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
            qubes_vpn_configure.folder(KEYFILES.parent)  # NetworkManager's own
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
