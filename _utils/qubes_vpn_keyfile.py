# SPDX-License-Identifier: GPL-2.0-or-later
"""A provider's profile in the VPN qube as a connection of NetworkManager's (R31, R32, R33).

Everything is a reading of ``credentials/``: nothing is written, executed or looked up.  The format
is that of NetworkManager's keyfiles (``src/libnm-core-impl/nm-keyfile.c`` of 1.52, nm-settings(5)).
"""

import uuid
from dataclasses import dataclass, field
from pathlib import Path

import qubes_vpn_credentials
import qubes_vpn_keyfile_openvpn
import qubes_vpn_keyfile_wireguard
import qubes_vpn_profile
import qubes_vpn_ruleset
from qubes_vpn_error import UserError, read_text, text_of
from qubes_vpn_pins import Pins

#: Where the files of :attr:`Connection.files` belong, in a folder for each connection: in memory.
FILES = "/run/qubes-vpn"

_NAMESPACE = uuid.UUID("0f1c1c3a-5d0e-4c8b-9a55-7a5b1a3f6f10")


@dataclass(frozen=True)
class Connection:
    """A connection for NetworkManager, whose secrets stand in *text* and *files*.

    uuid: the same on every machine.  id: its name for ``nmcli connection up``.  text: the keyfile.
    files: path -> bytes, what the keyfile names: certificates, keys.  text and files belong to
    root alone, mode 0600, in memory.  findings: what a user should know (:class:`Finding`).
    """

    uuid: str
    id: str
    text: str = field(repr=False)
    files: dict = field(repr=False)
    findings: tuple


def connection(folder, profile, interface, endpoints):
    """The :class:`Connection` for the file *profile* in *folder*; raises :class:`UserError`.

    folder: ``credentials/``, a Path.  profile: a bare name.  interface: what the tunnel is to be
    called.  endpoints: texts, as in the pillar; no server of the profile may be missing there.
    It does not come up by itself, and once up it takes all routes and all DNS.
    """
    path = str(Path(folder) / profile)
    wrong = qubes_vpn_ruleset.interface(interface)
    if wrong:
        raise UserError(wrong, "Write the name that the tunnel has, such as wg0.", key="interface")
    qubes_vpn_profile.refuse_name(profile)
    name = uuid_of(profile)
    with qubes_vpn_credentials.opened(Path(folder)) as credentials:
        reader, lines = qubes_vpn_profile.split(path, text_of(credentials.read(profile), path))
        said = reader.parse(lines, path)
        _refuse(said.findings, path)
        pins = Pins(endpoints, path)
        if said.kind == "wireguard":
            made = qubes_vpn_keyfile_wireguard.made(lines, path, interface, pins)
        else:
            source = qubes_vpn_keyfile_openvpn.Source(path, credentials, f"{FILES}/{name}")
            made = qubes_vpn_keyfile_openvpn.made(lines, source, said, interface, pins)
    head = {"id": f"qubes-vpn-{profile}", "uuid": name, "autoconnect": "false"}
    sections = {**made.sections, "connection": head | made.sections["connection"]}
    findings = sorted({*said.findings, *made.findings}, key=lambda finding: finding.line)
    return Connection(name, head["id"], _text(sections), made.files, tuple(findings))


def uuid_of(profile):
    """The UUID of the connection that is made of the file *profile*."""
    return str(uuid.uuid5(_NAMESPACE, profile))


def refusals(path, endpoints):
    """What :func:`connection` would refuse the profile *path* for, as far as the file shows it.

    A list of :class:`UserError`, made without the files that the profile names; raises the same
    for what :func:`qubes_vpn_profile.read` refuses.
    """
    reader, lines = qubes_vpn_profile.split(path, read_text(path, qubes_vpn_profile.MOST))
    said, pins = reader.parse(lines, path), Pins(endpoints, path)
    found = _refused(said.findings, path)
    if said.kind == "openvpn":
        known = {error.line for error in found}
        more = qubes_vpn_keyfile_openvpn.refusals(lines, path, said, pins)
        return [*found, *(error for error in more if error.line not in known)]
    try:
        qubes_vpn_keyfile_wireguard.made(lines, path, "wg0", pins)
    except UserError as error:
        found.append(error)
    return found


def _refuse(findings, path):
    """One error for all that the VPN qube takes no profile with."""
    errors = _refused(findings, path)
    if errors:
        raise errors[0] if len(errors) == 1 else UserError.of_text("\n".join(map(str, errors)))


def _refused(findings, path):
    return [
        UserError(found.what, found.fix or _CHANGE, path, found.line, found.key)
        for found in findings
        if found.refused
    ]


_CHANGE = "The VPN qube takes no profile with this: change it, or ask the provider for another one."


def _text(sections):
    """The keyfile: *sections* is name -> key -> text; what is None is left out."""
    lines = ["# Made at each start from the profile in credentials/: what is changed here is lost."]
    for name, keys in sections.items():
        lines += ["", f"[{name}]"]
        lines += [f"{key}={_value(value)}" for key, value in keys.items() if value is not None]
    return "\n".join([*lines, ""])


def _value(text):
    """*text* as GLib's key files write it; blanks at an end would be lost."""
    text = text.replace("\\", "\\\\")
    inner = text.strip(" ")
    if not inner:
        return "\\s" * len(text)
    before, _, after = text.partition(inner)
    return "\\s" * len(before) + inner + "\\s" * len(after)
