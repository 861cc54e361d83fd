# SPDX-License-Identifier: GPL-2.0-or-later
"""A vendor's package repository in a template: its source, and the one key that signs it.

Nothing that apt or dnf reads is written before the key's whole fingerprint is the pinned one, and
what is written lets the vendor's packages, and no others, come from there.
"""

import urllib.parse
from pathlib import Path
from typing import NamedTuple

import qubes_vpn_configure
import qubes_vpn_openpgp
import qubes_vpn_proxy
from qubes_vpn_openpgp import NotOneKey

_APT = Path("/etc/apt")
_DNF_SOURCES = Path("/etc/yum.repos.d")
_DNF_KEYS = Path("/etc/pki/rpm-gpg")
#: Bytes; Mullvad's key has 3,400.
_LONGEST_KEY = 64 * 1024


class Repository(NamedTuple):
    """A vendor's repository.

    name: its bare name.  uri: its base.  key: the address of its key.  fingerprint: the key's, 40
    upper-case hexadecimal digits.  only: names of the packages that may come from there.
    """

    name: str
    uri: str
    key: str
    fingerprint: str
    only: tuple

    @property
    def host(self):
        return urllib.parse.urlsplit(self.uri).hostname


class Untrusted(Exception):
    """The repository cannot be used; the argument says why, and what to do."""


def sources(family):
    """The files from which the package manager knows its repositories."""
    if family == "fedora":
        return sorted(_DNF_SOURCES.glob("*.repo"))
    parts = _APT / "sources.list.d"
    return [_APT / "sources.list", *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]


def source(repository, family):
    """The file that names the repository."""
    if family == "fedora":
        return _DNF_SOURCES / f"qubes-vpn-{repository.name}.repo"
    return _APT / f"sources.list.d/qubes-vpn-{repository.name}.sources"


def _holder(repository, family):
    """The file that holds the key."""
    if family == "fedora":
        return _DNF_KEYS / f"RPM-GPG-KEY-qubes-vpn-{repository.name}"
    return source(repository, family)


def files(repository, key, family):
    """``{path: text}`` of what names the repository, in the order in which they are written."""
    only = repository.only
    if family == "fedora":
        lines = [
            f"[qubes-vpn-{repository.name}]",
            f"name={repository.name}, by qubes-vpn-formula",
            f"baseurl={repository.uri}",
            "enabled=1",
            "gpgcheck=1",
            f"gpgkey={_holder(repository, family).as_uri()}",
            f"includepkgs={','.join(only)}",
        ]
        text = "\n".join(lines) + "\n"
        return {_holder(repository, family): key.text, source(repository, family): text}
    # apt_preferences(5): what names a package comes before what is for all of them.
    pins = [("*", -1), *((name, 500) for name in only)]
    preferences = "\n".join(
        f"Package: {name}\nPin: origin {repository.host}\nPin-Priority: {priority}\n"
        for name, priority in pins
    )
    lines = [
        "Types: deb",
        f"URIs: {repository.uri}",
        "Suites: stable",
        "Components: main",
        # In the source itself, so that this key signs for nothing else.
        "Signed-By:",
        *(f" {line or '.'}" for line in key.text.splitlines()),
    ]
    return {
        _APT / f"preferences.d/qubes-vpn-{repository.name}": preferences,
        source(repository, family): "\n".join(lines) + "\n",
    }


def present(repository, family):
    """Whether all of it is there, with the pinned key; raises :class:`Untrusted` for a clash."""
    _alone(repository, family)
    try:
        text = _holder(repository, family).read_text("ascii")
        key = _trusted(repository, text.replace("\n .\n", "\n\n"))
        wanted = files(repository, key, family)
        return all(path.read_text("ascii") == text for path, text in wanted.items())
    except (OSError, UnicodeDecodeError, Untrusted):
        return False


def fetch(repository):
    """The repository's key, if it is the pinned one; raises :class:`Untrusted`."""
    try:
        data = qubes_vpn_proxy.fetch(repository.key, _LONGEST_KEY)
        return _trusted(repository, data.decode("ascii"))
    except qubes_vpn_proxy.Unreachable as error:
        raise Untrusted(str(error)) from None
    except UnicodeDecodeError:
        raise Untrusted(_refusal(repository, "it is no armored public key")) from None


def write(repository, key, family):
    """Writes what names the repository: an iterator over the files, each once it is written.

    Raises :class:`OSError`.
    """
    for path, text in files(repository, key, family).items():
        qubes_vpn_configure.folder(path.parent)
        qubes_vpn_configure.replace(path, text.encode("ascii"), 0o644)
        yield path


def _trusted(repository, text):
    """The key in *text*, which may be indented, as in a source of apt's."""
    unindented = "\n".join(line.strip() for line in text.splitlines()) + "\n"
    try:
        key = qubes_vpn_openpgp.public_key(unindented)
    except NotOneKey as error:
        raise Untrusted(_refusal(repository, str(error))) from None
    if key.fingerprint != repository.fingerprint:
        raise Untrusted(_refusal(repository, f"its fingerprint is {key.fingerprint}"))
    return key


def _refusal(repository, why):
    return (
        f"the key at {repository.key} is not the one that is known for {repository.name} "
        f"({repository.fingerprint}): {why}. Nothing was written. Somebody may have put it there: "
        "ask the vendor before anything else"
    )


def _alone(repository, family):
    """Refuses another source of the same repository, which has its own idea of the key."""
    own = source(repository, family)
    for path in sources(family):
        if path == own:
            continue
        try:
            lines = path.read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        if any(repository.host in line.partition("#")[0] for line in lines):
            raise Untrusted(
                f"{path} names {repository.host} too, with a key that this formula has not "
                "checked. Remove that file, and run this again"
            )
