# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the template that this runs in can carry a tunnel, and what it lacks (R25)."""

import os
import pwd
import subprocess
from pathlib import Path
from typing import NamedTuple

import qubes_vpn_dns_proxy
import qubes_vpn_follow
import qubes_vpn_killswitch
import qubes_vpn_logins
import qubes_vpn_packages
import qubes_vpn_repository
import qubes_vpn_resolver
import qubes_vpn_told
from qubes_vpn_repository import Repository, Untrusted

_QUERIES = {
    "debian": ("dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n"),
    "fedora": ("rpm", "-qa", "--qf", "installed %{NAME}\n"),
}
_ENVIRON = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
#: The killswitch's units, those by which DNS follows a tunnel, and those of NetworkManager's
#: tunnels; a masked one is a link.
_UNITS = ("qubes-vpn-closed.service", "qubes-vpn-open.service")
_DNS_UNITS = (qubes_vpn_follow.SERVICE, qubes_vpn_follow.PATH)
_TUNNEL_UNITS = ("qubes-vpn-tunnel.service", "qubes-vpn-watch.service")
#: A resolver's units, and those of Debian's that must not start beside ours.
_RESOLVER_UNITS = ("qubes-vpn-dns-own.service", "qubes-vpn-dns.service")
_MASKED = ("dnscrypt-proxy.socket", "dnscrypt-proxy-resolvconf.service")
#: Where qrexec finds what can be called.
_CALLS = Path("/etc/qubes-rpc")
_OURS, _THEIRS = Path("/etc/systemd/system"), Path("/usr/lib/systemd/system")
_APPLY = "Apply the formula to this template"


class Lack(NamedTuple):
    """Why a template is not ready.

    text: what is wrong and what to do.  ours: the formula itself puts it right in a template.
    """

    text: str
    ours: bool


class Unknown(Exception):
    """The template cannot be looked at; the argument says why."""


def installed(system):
    """Names of the packages that are installed; system: ``debian`` or ``fedora``."""
    words = _QUERIES[system]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=True, env=_ENVIRON, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unknown(f"{words[0]} does not say what is installed: {error}") from None
    lines = (line.split(" ") for line in done.stdout.splitlines())
    return {name for status, name in lines if status == "installed"}


def lacking(packages):
    """Those of *packages* that are not installed; raises as :func:`installed`, and Unsupported."""
    have = installed(qubes_vpn_packages.family())
    return [name for name in packages if name not in have]


def lacks(kinds, minimal):
    """All that is wrong with this template for tunnels of these *kinds*: list of :class:`Lack`.

    minimal: whether it was asked for without a desktop.
    """
    told = [
        Lack(
            f"{path} holds a login, and every qube of this template would have it. Move it to the "
            "VPN qube, /rw/config/vpn/credentials/, and treat it as disclosed",
            ours=False,
        )
        for path in qubes_vpn_logins.found()
    ]
    try:
        system = qubes_vpn_packages.family()
        have = installed(system)
    except (qubes_vpn_packages.Unsupported, Unknown) as error:
        return [Lack(str(error), ours=False), *told, *_killswitch(kinds)]
    if minimal:
        told += _desktop(have)
    return [
        *told,
        *_killswitch(kinds),
        *_packages(kinds, system, have),
        *_repositories(kinds, system),
        *_services(kinds),
        *_tunnel(kinds),
        *_resolver(kinds),
        *_calls(kinds),
        *_program(kinds, have),
    ]


def _desktop(have):
    found = sorted({qubes_vpn_packages.DESKTOPS[name] for name in have
                    if name in qubes_vpn_packages.DESKTOPS})  # fmt: skip
    return [
        Lack(
            f"the desktop {name} is installed, and a minimal template was asked for. Make the "
            "template anew from a -minimal one, or name another clone_of in the pillar",
            ours=False,
        )
        for name in found
    ]


def _killswitch(kinds):
    if kinds == ["dnscrypt"]:
        return []  # a resolver's template
    told = qubes_vpn_killswitch.missing(qubes_vpn_killswitch.IN_TEMPLATE)
    for unit in _UNITS:
        path = _OURS / unit
        if path.is_symlink():
            told.append(f"{path} is a link, so this unit is masked or not ours. {_APPLY}")
    return [Lack(text, ours=True) for text in told]


def _tunnel(kinds):
    units = () if kinds == ["dnscrypt"] else _DNS_UNITS
    if "NetworkManager" in qubes_vpn_packages.services(kinds):
        units += _TUNNEL_UNITS
    states = {unit: _state(unit) for unit in units}
    return [
        Lack(f"the unit {unit} {state}. {_APPLY}", ours=True)
        for unit, state in states.items()
        if state
    ]


def _resolver(kinds):
    if "dnscrypt" not in kinds:
        return []
    told = qubes_vpn_resolver.missing(qubes_vpn_resolver.IN_TEMPLATE)
    states = {unit: _state(unit) for unit in _RESOLVER_UNITS}
    told += [f"the unit {unit} {state}. {_APPLY}" for unit, state in states.items() if state]
    told += [
        f"the unit {unit} is not masked. {_APPLY}"
        for unit in _MASKED
        if _state(unit) != "is masked"
    ]
    if not any(user.pw_name == qubes_vpn_dns_proxy.USER for user in pwd.getpwall()):
        told.append(f"the user {qubes_vpn_dns_proxy.USER} is not there. {_APPLY}")
    return [Lack(text, ours=True) for text in told]


def _calls(kinds):
    """The qrexec services by which dom0 asks a qube of this template how it is."""
    tunnel = kinds != ["dnscrypt"]
    names = qubes_vpn_told.SERVICES if tunnel else qubes_vpn_told.OF_RESOLVERS
    files = [qubes_vpn_killswitch.IN_TEMPLATE / "service"]
    files += [_CALLS / f"{qubes_vpn_told.PREFIX}{name}" for name in names]
    return [
        Lack(f"{path} is not there, or cannot be run: dom0 calls it. {_APPLY}", ours=True)
        for path in files
        if not os.access(path, os.X_OK)
    ]


def _program(kinds, have):
    """A distribution may put it elsewhere; then our unit would not start."""
    program = Path(qubes_vpn_dns_proxy.PROGRAM)
    if "dnscrypt" not in kinds or program.name not in have or os.access(program, os.X_OK):
        return []
    text = (
        f"{program} is not there, though {program.name} is installed: this system has it elsewhere."
        f' Link it: ln -s "$(command -v {program.name})" {program}'
    )
    return [Lack(text, ours=False)]


def _packages(kinds, system, have):
    vendors = [
        name
        for repository in qubes_vpn_packages.repositories(kinds, system)
        for name in repository["only"]
    ]
    wanted = [*qubes_vpn_packages.packages(kinds, system), *vendors]
    return [
        Lack(f"the package {name} is missing. {_APPLY}", ours=True)
        for name in wanted
        if name not in have
    ]


def _repositories(kinds, system):
    told = []
    for arguments in qubes_vpn_packages.repositories(kinds, system):
        repository = Repository(**arguments)
        try:
            if not qubes_vpn_repository.present(repository, system):
                text = f"the repository of {repository.name} is missing or altered. {_APPLY}"
                told.append(Lack(text, ours=True))
        except Untrusted as error:
            told.append(Lack(str(error), ours=False))
    return told


def _services(kinds):
    states = {name: _state(f"{name}.service") for name in qubes_vpn_packages.services(kinds)}
    return [
        Lack(f"the service {name} {state}. {_APPLY}", ours=True)
        for name, state in states.items()
        if state
    ]


def _state(unit):
    """Why the unit does not start with the qube; None when it does."""
    if (_OURS / unit).is_symlink() and (_OURS / unit).readlink() == Path("/dev/null"):
        return "is masked"
    if any(_OURS.glob(f"*.wants/{unit}")):
        return None
    there = any((folder / unit).exists() for folder in (_OURS, _THEIRS))
    return "does not start with the qube" if there else "is not there"
