# SPDX-License-Identifier: GPL-2.0-or-later
"""OpenVPN client profiles, as openvpn(8) reads them.

Which server, port and protocol: ``src/openvpn/options.c`` of OpenVPN 2.7.  ``port``, ``rport`` and
``proto`` count for every ``remote`` of the file wherever they stand, but for a <connection> block
only when they stand before it; with such a block, the other remotes do not count at all.
"""

import re
from pathlib import Path
from typing import NamedTuple

from qubes_vpn_error import UserError
from qubes_vpn_openvpn_lines import options
from qubes_vpn_openvpn_options import FILES, FIXES, NAMED, PROTOCOLS, QUIET, REFUSED, SERVER
from qubes_vpn_openvpn_weak import weakened
from qubes_vpn_profile_data import (
    Finding,
    Host,
    Profile,
    Reference,
    Secret,
    endpoint,
    is_address,
    is_host_name,
    once,
    port_number,
    shown,
    shown_key,
)

_FIRST_LINE = re.compile(
    r"(--)?(client|remote\s+\S+.*|dev\s+(tun|tap)\w*|<(ca|cert|key|connection)>)$"
)

#: A file and a key direction, or the word "dir".
_TWO_WORDS = ("tls-auth", "tls-crypt", "tls-crypt-v2", "secret", "crl-verify")

#: Options of whose word a user may take the login itself to be meant; what looks like a file's name
#: has an ending, or no digit.
_LOGINS = ("auth-user-pass", "askpass")
_FILE_NAME = re.compile(r"(^|[/\\])([\w.-]+\.[A-Za-z]{2,4}|[A-Za-z_.-]+)$", re.ASCII)


#: Options whose names may be shown wherever they stand.
_KNOWN = QUIET | set(NAMED) | set(REFUSED)


def login_file(path):
    """The name of the file beside the profile *path* that answers ``auth-user-pass``."""
    return f"{Path(path).stem}.auth"


def is_first_line(line):
    """Whether *line* (stripped, lower case) shows that a file is OpenVPN's."""
    return bool(_FIRST_LINE.match(line))


def parse(lines, path):
    """The :class:`Profile` in *lines* of the file *path*; raises :class:`UserError`."""
    return _Reader(path).read(options(lines, path), lines)


class _Remote(NamedTuple):
    """A server as the file gives it, its port and protocol perhaps still open (None)."""

    line: int
    host: str
    port: int | None
    proto: str | None


class _Reader:
    """One pass over the options; what it collects becomes the profile."""

    def __init__(self, path):
        self.path = path
        self.port, self.proto = 1194, "udp"
        self.only = None  # proto-force
        self.remotes, self.blocks = [], []
        self.files, self.findings, self.secrets = [], [], []
        self.seen = {}
        self.ignored = set()  # ignore-unknown-option

    def read(self, found, lines):
        for option in found:
            self._option(option)
        self._whole()
        endpoints, hosts = [], {}
        for server in map(self._server, self._servers()):
            if isinstance(server, Host):
                hosts.setdefault(server._replace(line=0), server)
            else:
                endpoints.append(server)
        return Profile(
            kind="openvpn",
            name=Path(self.path).name,
            provider=_provider(lines, hosts.values()),
            endpoints=once(endpoints),
            hosts=tuple(hosts.values()),
            secrets=tuple(self.secrets),
            files=tuple(self.files),
            findings=tuple(sorted(self.findings, key=lambda finding: finding.line)),
        )

    def _option(self, option):
        line, name, words = option.line, option.name, option.words
        self.seen.setdefault(name, option)
        if name in SERVER or (name, words[:1]) == ("mode", ("server",)):
            raise self._error(
                line, name, "this is a server's configuration", "Take the client's profile."
            )
        if name in ("http-proxy", "socks-proxy"):
            raise self._error(
                line,
                name,
                "a proxy stands between the qube and the VPN server",
                "Only the server itself can be pinned: remove the line.",
            )
        if name == "connection" and option.inside is not None:
            self.blocks.append(self._connection(option))
        elif name == "remote":
            self.remotes.append(self._remote(option))
        elif name in ("port", "rport"):
            self.port = self._port(line, name, words[:1])
        elif name == "proto":
            self.proto = self._protocol(line, name, words[:1])
        elif name == "proto-force":
            self.only = PROTOCOLS[self._protocol(line, name, words[:1])][0]
        elif name in FILES:
            self._file(option)
        else:
            self._other(option)

    def _connection(self, option):
        """The server of one <connection> block: what stands in it goes over what stood before."""
        remote, port, proto = None, self.port, self.proto
        for inner in option.inside:
            if inner.name == "remote":
                remote = self._remote(inner)
                port, proto = remote.port or port, remote.proto or proto
            elif inner.name in ("port", "rport"):
                port = self._port(inner.line, inner.name, inner.words[:1])
            elif inner.name == "proto":
                proto = self._protocol(inner.line, inner.name, inner.words[:1])
            else:
                self._option(inner)
        if remote is None:
            raise self._error(
                option.line,
                "<connection>",
                "the block names no server",
                "Add 'remote ADDRESS PORT' to it.",
            )
        return remote._replace(port=port, proto=proto)

    def _remote(self, option):
        line, words = option.line, option.words
        if not words or len(words) > 3:
            raise self._error(
                line, "remote", "not 'remote HOST [PORT [PROTO]]'", "Write it that way."
            )
        port = self._port(line, "remote", words[1:2]) if words[1:] else None
        proto = self._protocol(line, "remote", words[2:3]) if words[2:] else None
        return _Remote(line, words[0], port, proto)

    def _port(self, line, name, words):
        port = port_number(words[0]) if words else None
        if port is None:
            what = f"{shown(words[0])} is not a port" if words else "there is no port"
            raise self._error(line, name, what, "Ports are 1 to 65535.")
        return port

    def _protocol(self, line, name, words):
        if not words or words[0] not in PROTOCOLS:
            what = (
                f"{shown(words[0])} is not a client's protocol" if words else "there is no protocol"
            )
            raise self._error(line, name, what, f"Known: {', '.join(PROTOCOLS)}.")
        return words[0]

    def _servers(self):
        if self.blocks and self.remotes:
            self._find(
                self.remotes[0].line,
                "remote",
                "OpenVPN ignores it, because there are <connection> blocks",
            )
        servers = self.blocks or [
            remote._replace(port=remote.port or self.port, proto=remote.proto or self.proto)
            for remote in self.remotes
        ]
        if not servers:
            raise self._error(
                None,
                "remote",
                "missing, so there is no server to connect to",
                "Add 'remote ADDRESS PORT PROTO', or download the profile again.",
            )
        kept = [server for server in servers if self.only in (None, PROTOCOLS[server.proto][0])]
        if not kept:
            raise self._error(
                self.seen["proto-force"].line,
                "proto-force",
                f"no server speaks {self.only}",
                "Remove the line, or take the profile for that protocol.",
            )
        return kept

    def _server(self, server):
        """A server as an endpoint, or as a :class:`Host` that is still to be pinned."""
        proto, version = PROTOCOLS[server.proto]
        host = server.host
        if is_address(host):
            if version and version != (6 if ":" in host else 4):
                raise self._error(
                    server.line,
                    "remote",
                    f"{host} is not an IPv{version} address, as '{server.proto}' asks for",
                    f"Write {proto} instead of {server.proto}.",
                )
            return endpoint(
                host,
                server.port,
                proto,
                f"line {server.line}",
                file=self.path,
                line=server.line,
                key="remote",
            )
        if host.startswith("[") and is_address(host.strip("[]")):
            raise self._error(
                server.line,
                "remote",
                "OpenVPN takes IPv6 addresses without brackets",
                f"Write {host.strip('[]')}.",
            )
        if not is_host_name(host):
            raise self._error(
                server.line,
                "remote",
                f"{shown(host)} is neither an address nor a host name",
                "Write 'remote 198.51.100.7 1194' or the server's name.",
            )
        return Host(host.rstrip(".").lower(), server.port, proto, version, server.line)

    def _file(self, option):
        line, name, words = option.line, option.name, option.words
        if name in REFUSED:
            self._find(line, name, *_refusal(name))
        if FILES[name] and option.body is not None:
            self.secrets.append(Secret(name, line))
        if option.body is not None or words[:1] == ("[inline]",):
            return
        if not words or words[0] in ("stdin", "username-only"):
            self._asked(line, name)
            return
        if len(words) > (2 if name in _TWO_WORDS else 1):
            raise self._error(
                line,
                name,
                "more than the name of one file",
                "User name and password go into a file of two lines."
                if name == "auth-user-pass"
                else "Put a name with blanks in quotes.",
            )
        if name in _LOGINS and not _FILE_NAME.search(words[0]):
            raise self._error(
                line,
                name,
                "its word (not shown) may be the secret itself and not the name of a file",
                "Put the secret into a file whose name ends in .txt, and write that name here.",
            )
        self.files.append(Reference(name, words[0], line))
        if FILES[name]:
            self.secrets.append(Secret(f"{name}, in the file {words[0]}", line))
        place = re.split(r"[/\\]", words[0])
        if place[0] in ("", "~") or ".." in place or ":" in place[0]:
            self._find(
                line,
                name,
                "a file in a folder of its own choice, not beside the profile",
                True,
                True,
                f"Put the file beside the profile, and write its bare name: {name} NAME.",
            )
        elif len(place) > 1:
            self._find(
                line, name, "a path of another machine; in the VPN qube the files lie side by side"
            )

    def _asked(self, line, name):
        """A secret that OpenVPN would ask for."""
        if name not in _LOGINS:
            raise self._error(line, name, "it names no file", "Download the profile again.")
        self.secrets.append(Secret(f"{name}: asked for at every start", line))
        if name == "auth-user-pass":
            what = "asks at every start; in the VPN qube a file of two lines answers, "
            self._find(line, name, what + login_file(self.path))
        else:
            what = "asks at every start; name a file with the password"
            self._find(line, name, what, False, True, "Write 'askpass FILE'.")

    def _other(self, option):
        line, name, words = option.line, option.name, option.words
        if name == "auth-token":
            self.secrets.append(Secret("auth-token", line))
        elif name == "ignore-unknown-option":
            self.ignored.update(words)
        said = self._said(option)
        if said:
            # Alone on its line it may be what is left of a secret's block.
            self._find(line, shown_key(name if words or name in _KNOWN else ""), *said)

    def _said(self, option):
        """What the user should know of an option: (text, danger, refused, fix), or None.

        The fix may be left out.
        """
        name, words = option.name, option.words
        first = words[0] if words else ""
        if weak := weakened(name, first):
            return weak
        if name in NAMED:
            quiet = (name == "compress" and first in ("", "stub", "stub-v2", "migrate")) or (
                name == "comp-lzo" and first == "no"
            )
            return None if quiet else (*NAMED[name], False)
        if name in REFUSED:
            harmless = name == "dns-updown" and first in ("disable", "force")
            return None if harmless else _refusal(name)
        if name not in QUIET:
            if option.optional or name in self.ignored:
                return "unknown option; OpenVPN passes over it", False, False
            what = "unknown option; OpenVPN would refuse the file"
            return what, False, True, "Remove the line, or mend its spelling."
        if name == "script-security" and first not in ("0", "1"):
            return "lets programs of the profile run", True, first != "2", "Remove the line."
        if name in ("dev", "dev-type") and not first.startswith("tun"):
            return (
                "only 'tun' is supported: the killswitch knows the tunnel by that name",
                True,
                True,
                "Write 'dev tun', if the server has that too.",
            )
        if name == "remote-cert-tls" and first != "server":
            what = "only 'server' makes sure that no other client poses as the server"
            return what, True, True, "Write 'remote-cert-tls server'."
        if name == "redirect-gateway" and {"!ipv4", "bypass-dns"} & set(words):
            return "some traffic would go past the tunnel; it is not taken over", True, False
        return None

    def _whole(self):
        """What only the whole file shows."""
        if "client" not in self.seen and "pull" not in self.seen:
            self._find(1, "client", "missing: the server's routes and DNS would not be taken")
        if "dev" not in self.seen:
            self._find(1, "dev", "missing: OpenVPN would not start; add 'dev tun'")
        if not {
            "remote-cert-tls",
            "remote-cert-eku",
            "verify-x509-name",
            "ns-cert-type",
            "peer-fingerprint",
            "secret",
        } & set(self.seen):
            self._find(
                1,
                "remote-cert-tls",
                "missing: any client of the provider could pose as the server",
                True,
            )
        if not {"ca", "capath", "pkcs12", "peer-fingerprint", "secret"} & set(self.seen):
            raise self._error(
                None,
                "ca",
                "missing, so nobody could verify the server",
                "Add <ca>...</ca> or 'ca FILE', or download the profile again.",
            )

        if ("cert" in self.seen) != ("key" in self.seen):
            there, missing = ("cert", "key") if "cert" in self.seen else ("key", "cert")
            what = f"{missing} is missing: OpenVPN takes both or none"
            fix = f"Add {missing}, or remove {there}."
            self._find(self.seen[there].line, there, what, False, True, fix)
        if not {"cert", "auth-user-pass"} & set(self.seen):
            what = "missing, and so is cert: the server could not tell who calls"
            fix = "Download the profile again, or add 'auth-user-pass'."
            self._find(1, "auth-user-pass", what, False, True, fix)

    def _find(self, line, key, what, danger=False, refused=False, fix=""):
        self.findings.append(Finding(line, key, what, danger, refused, fix))

    def _error(self, line, key, what, fix):
        return UserError(what, fix, file=self.path, line=line, key=key)


def _refusal(name):
    """As of ``_said``, for an option that is refused by its name."""
    return REFUSED[name], True, True, FIXES.get(REFUSED[name], "")


def _provider(lines, hosts):
    """The provider by its host names and comments.  Empty when unsure."""
    names = " ".join(host.name for host in hosts)
    comments = " ".join(line for line in lines if line.lstrip().startswith(("#", ";"))).lower()
    if ".protonvpn." in names or "proton" in comments:
        return "Proton VPN"
    if ".ivpn.net" in names or "ivpn" in comments:
        return "IVPN"
    if ".mullvad.net" in names or "mullvad" in comments:
        return "Mullvad"
    return ""
