# SPDX-License-Identifier: GPL-2.0-or-later
"""WireGuard profiles, as wg-quick reads them.

Keys and syntax: ``src/wg-quick/linux.bash`` and ``src/config.c`` of wireguard-tools.
"""

import base64
import binascii
import ipaddress
import re
from pathlib import Path

import qubes_vpn_net
from qubes_vpn_error import UserError
from qubes_vpn_profile_data import (
    Endpoint,
    Finding,
    Host,
    Profile,
    Secret,
    endpoint,
    is_address,
    is_host_name,
    once,
    port_number,
    shown,
    shown_key,
)

_KEYS = {
    "interface": (
        "PrivateKey",
        "ListenPort",
        "FwMark",
        "Address",
        "DNS",
        "MTU",
        "Table",
        "PreUp",
        "PostUp",
        "PreDown",
        "PostDown",
        "SaveConfig",
    ),
    "peer": ("PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"),
}
_SECTIONS = {"interface": "[Interface]", "peer": "[Peer]"}
_REPEATABLE = {"Address", "DNS", "AllowedIPs", "PreUp", "PostUp", "PreDown", "PostDown"}
_SCRIPT = ((), "a program that would run as root", True, True)
#: What to say of a key: its values that need no word, the remark, whether it is dangerous, and
#: whether the VPN qube takes no profile with it.
_REMARKS = {
    "PreUp": _SCRIPT,
    "PostUp": _SCRIPT,
    "PreDown": _SCRIPT,
    "PostDown": _SCRIPT,
    "Table": (("auto",), "routes of its own or none: traffic may go past the tunnel", True, False),
    "SaveConfig": (("false",), "the file would be overwritten, keys included", False, False),
    "FwMark": (("off", "0", "0x0"), "a mark for routing rules of its own", False, False),
    "ListenPort": (("0",), "a fixed source port, on which nobody can call", False, False),
}
#: Numbers: the least that is possible, and the word that may stand instead.
_NUMBERS = {"ListenPort": (0, None), "MTU": (576, None), "PersistentKeepalive": (0, "off")}
_AGAIN = "Download the profile again, or copy the whole key."
_AS_GIVEN = "Write it as the provider gives it."

_PROTON = re.compile(
    r"#\s*(key for |bouncing\s*=|netshield\s*=|nat-pmp|vpn accelerator|moderate nat)", re.I
)


def is_first_line(line):
    """Whether *line* (stripped, lower case) shows that a file is WireGuard's."""
    return line.partition("#")[0].strip() in ("[interface]", "[peer]")


def parse(lines, path):
    """The :class:`Profile` in *lines* of the file *path*; raises :class:`UserError`."""
    return _Reader(path).read(lines)


def sections(lines, path):
    """``(interface, peers, servers)``, with secret values too; raises :class:`UserError`.

    interface, and each of peers: key -> list of ``(line, value)``; only of a key that may be
    repeated does more than the last one count.  servers: of each peer an :class:`Endpoint`, a
    :class:`Host` or None.
    """
    reader = _Reader(path)
    reader.read(lines)
    return reader.interface, reader.peers, reader.servers


def items(value):
    """The items of a list: commas or blanks between them."""
    return list(filter(None, re.split(r"[,\s]+", value)))


class _Reader:
    """One pass over the lines; what it collects becomes the profile."""

    def __init__(self, path):
        self.path = path
        self.section = None
        self.interface = {}  # key -> list of (line, value)
        self.interface_line = None
        self.peers = []  # the same for each peer, with its line under ""
        self.servers = []  # of each peer: an Endpoint, a Host or None
        self.findings = []
        self.secrets = []

    def read(self, lines):
        for number, line in enumerate(lines, 1):
            self._line(number, line)
        if self.interface_line is None:
            raise self._error(
                None, None, "there is no [Interface] section", "Download the profile again."
            )
        if "PrivateKey" not in self.interface:
            raise self._error(
                self.interface_line,
                "PrivateKey",
                "missing",
                "Download the profile again, or add 'PrivateKey = ...' under [Interface].",
            )
        if not self.peers:
            raise self._error(
                None, None, "there is no [Peer] section", "Download the profile again."
            )
        self._interface()
        self._peers()
        hosts = [server for server in self.servers if isinstance(server, Host)]
        self._routing()
        return Profile(
            kind="wireguard",
            name=Path(self.path).name,
            provider=_provider(lines, self.interface, hosts),
            endpoints=once(found for found in self.servers if isinstance(found, Endpoint)),
            hosts=tuple(hosts),
            secrets=tuple(self.secrets),
            findings=tuple(sorted(self.findings, key=lambda found: found.line)),
        )

    def _line(self, number, line):
        plain = line.partition("#")[0].strip()
        if not plain:
            return
        if plain.startswith("["):
            self._header(number, plain)
            return
        written, equals, value = plain.partition("=")
        written, value = written.strip(), value.strip()
        if not equals:
            raise self._error(
                number, None, "not 'KEY = VALUE'", "Write it so; a comment begins with '#'."
            )
        if self.section is None:
            raise self._error(
                number,
                shown_key(written),
                "stands before the first section",
                "The file must begin with [Interface].",
            )
        kept = self.interface if self.section == "interface" else self.peers[-1]
        key = next((key for key in _KEYS[self.section] if key.lower() == written.lower()), None)
        if key is None:
            other = "peer" if self.section == "interface" else "interface"
            known = next((key for key in _KEYS[other] if key.lower() == written.lower()), None)
            if known:
                raise self._error(
                    number,
                    known,
                    f"does not belong under {_SECTIONS[self.section]}",
                    f"Move it under {_SECTIONS[other]}.",
                )
            what = "unknown key; wg-quick would refuse the file"
            fix = "Remove the line, or take the provider's profile for plain WireGuard."
            self._find(number, shown_key(written), what, False, True, fix)
            return
        if key in kept and key not in _REPEATABLE:
            self._find(
                number, key, f"given again (first on line {kept[key][0][0]}); the last one counts"
            )
        kept.setdefault(key, []).append((number, value))

    def _header(self, number, plain):
        name = plain.lower()
        if name == "[peer]":
            self.section = "peer"
            self.peers.append({"": [(number, "")]})
        elif name == "[interface]":
            if self.interface_line is not None:
                raise self._error(
                    number,
                    "[Interface]",
                    f"there is one already, on line {self.interface_line}",
                    "Keep one profile in one file.",
                )
            self.section, self.interface_line = "interface", number
        else:
            raise self._error(
                number, None, "unknown section", "WireGuard knows [Interface] and [Peer] only."
            )

    def _interface(self):
        given, start = self.interface, self.interface_line
        line, value = given["PrivateKey"][-1]
        self._key(line, "PrivateKey", value)
        self.secrets.append(Secret("PrivateKey", line))
        if "Address" not in given:
            what = "missing: the tunnel would have no address of its own"
            fix = "Add 'Address = ...' under [Interface], as the provider gives it."
            self._find(start, "Address", what, False, True, fix)
        if "DNS" not in given:
            self._find(start, "DNS", "missing: the tunnel has no resolver for its clients")
        for key in ("Address", "DNS"):
            for line, value in given.get(key, ()):
                self._addresses(line, key, value)
        for key, (usual, what, danger, refused) in _REMARKS.items():
            for line, value in given.get(key, ()):
                if value.lower() not in usual:
                    said = what if refused else f"{what}; it is not taken over"
                    fix = "Remove the line: the killswitch does not need it." if refused else ""
                    self._find(line, key, said, danger, refused, fix)
        self._numbers(given)

    def _numbers(self, section):
        for key, (least, word) in _NUMBERS.items():
            for line, value in section.get(key, ()):
                plain = value.isascii() and value.isdigit() and len(value) < 6
                plain = plain and least <= int(value) <= 65535
                if not plain and value.lower() != word:
                    raise self._error(
                        line,
                        key,
                        f"{shown(value)} is not possible",
                        f"Write {least} to 65535, or leave the line out.",
                    )

    def _addresses(self, line, key, value):
        for item in items(value) or [""]:
            try:
                found = None if "%" in item else ipaddress.ip_interface(item)
            except ValueError:
                found = None
            if found:
                self._inside(line, key, item, found)
            elif key != "DNS" or not is_host_name(item):  # which may be a search domain
                raise self._error(line, key, f"{shown(item)} is not an IP address", _AS_GIVEN)

    def _inside(self, line, key, item, found):
        """Refuses what no tunnel can have at its end."""
        why = qubes_vpn_net.not_in_a_tunnel(found.ip)
        if not why and key == "Address" and not found.network.prefixlen:
            why = "it is the whole internet"
        if why:
            raise self._error(line, key, f"{item} cannot be inside a tunnel: {why}", _AS_GIVEN)

    def _peers(self):
        for peer in self.peers:
            start = peer[""][0][0]
            if "PublicKey" not in peer:
                raise self._error(
                    start, "PublicKey", "missing", "Every [Peer] needs its server's PublicKey."
                )
            line, value = peer["PublicKey"][-1]
            self._key(line, "PublicKey", value)
            if "PresharedKey" in peer:
                line, value = peer["PresharedKey"][-1]
                self._key(line, "PresharedKey", value)
                self.secrets.append(Secret("PresharedKey", line))
            self._numbers(peer)
            if "Endpoint" not in peer:
                self._find(
                    start,
                    "Endpoint",
                    "missing: the qube cannot call this peer, and it is not pinned",
                )
                self.servers.append(None)
                continue
            self.servers.append(self._endpoint(*peer["Endpoint"][-1]))
        if not any(self.servers):
            raise self._error(
                self.peers[0][""][0][0],
                "Endpoint",
                "missing, so there is no server to connect to",
                "Add 'Endpoint = ADDRESS:PORT' under [Peer].",
            )

    def _endpoint(self, line, value):
        example = "Write 'Endpoint = 198.51.100.7:51820' or '[2001:db8::7]:51820'."
        host, colon, port = value.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not colon or (value.startswith("[") and not bracketed):
            raise self._error(line, "Endpoint", "there is no port", example)
        if ":" in host and not bracketed:
            raise self._error(line, "Endpoint", "an IPv6 address without brackets", example)
        number = port_number(port)
        if number is None:
            raise self._error(
                line, "Endpoint", f"{shown(port)} is not a port", "Ports are 1 to 65535. " + example
            )
        bare = host[1:-1] if bracketed else host
        if is_address(bare):
            origin = f"line {line}"
            return endpoint(bare, number, "udp", origin, file=self.path, line=line, key="Endpoint")
        if bracketed or not is_host_name(host):
            raise self._error(
                line, "Endpoint", f"{shown(host)} is neither an address nor a host name", example
            )
        return Host(host.rstrip(".").lower(), number, "udp", 0, line)

    def _routing(self):
        """Names a split tunnel: what AllowedIPs leaves out is not tunnelled."""
        networks, line = [], self.peers[0][""][0][0]
        for peer in self.peers:
            for line, value in peer.get("AllowedIPs", ()):
                for item in items(value):
                    try:
                        networks.append(ipaddress.ip_network(item, strict=False))
                    except ValueError:
                        raise self._error(
                            line,
                            "AllowedIPs",
                            f"{shown(item)} is not a network",
                            "Write 'AllowedIPs = 0.0.0.0/0, ::/0'.",
                        ) from None
        if not _covers_all(networks, 4):
            self._find(
                line,
                "AllowedIPs",
                "not all of IPv4 (0.0.0.0/0): a split tunnel; the rest goes nowhere",
                True,
            )
        if any(network.version == 6 for network in networks) and not _covers_all(networks, 6):
            self._find(
                line,
                "AllowedIPs",
                "not all of IPv6 (::/0): a split tunnel; the rest goes nowhere",
                True,
            )

    def _key(self, line, name, value):
        """Checks that *value* is a WireGuard key; never shows it."""
        try:
            length = len(base64.b64decode(value, validate=True))
        except (binascii.Error, ValueError):
            length = None
        if length == 32 and len(value) == 44:
            return
        if not value:
            raise self._error(line, name, "empty", _AGAIN)
        what = (
            f"{len(value)} characters" if len(value) != 44 else "characters that a key cannot have"
        )
        raise self._error(
            line, name, f"not a WireGuard key (44 characters of base64): it has {what}", _AGAIN
        )

    def _find(self, line, key, what, danger=False, refused=False, fix=""):
        self.findings.append(Finding(line, key, what, danger, refused, fix))

    def _error(self, line, key, what, fix):
        return UserError(what, fix, file=self.path, line=line, key=key)


def _covers_all(networks, version):
    mine = [network for network in networks if network.version == version]
    return any(network.prefixlen == 0 for network in ipaddress.collapse_addresses(mine))


def _provider(lines, interface, hosts):
    """The provider by its habits: comments, tunnel addresses, host names.  Empty when unsure."""
    values = " ".join(value for key in ("Address", "DNS") for _, value in interface.get(key, ()))
    names = " ".join(host.name for host in hosts)
    if any(_PROTON.match(line.strip()) for line in lines) or "10.2.0.1" in values.split():
        return "Proton VPN"
    if ".ivpn.net" in names or "fd00:4956:504e:" in values or "172.16.0.1" in values.split():
        return "IVPN"
    if ".mullvad.net" in names or "fc00:bbbb:bbbb:bb01:" in values or "10.64.0.1" in values.split():
        return "Mullvad"
    return ""
