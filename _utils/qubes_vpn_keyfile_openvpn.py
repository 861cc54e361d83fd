# SPDX-License-Identifier: GPL-2.0-or-later
"""An OpenVPN profile as the sections of a NetworkManager keyfile (R32).

Properties: ``src/nm-openvpn-service.c`` and ``properties/import-export.c`` of
NetworkManager-openvpn 1.12.3.  NetworkManager starts OpenVPN itself, with ``--route-noexec``,
``--ifconfig-noexec`` and no configuration file; routes, addresses and DNS go by its own hands.
"""

import ipaddress
import re
from typing import NamedTuple

import qubes_vpn_net
from qubes_vpn_credentials import Folder
from qubes_vpn_error import UserError, text_of
from qubes_vpn_made import DNS, OFF, Made
from qubes_vpn_openvpn import login_file
from qubes_vpn_openvpn_lines import options
from qubes_vpn_openvpn_options import FILE_PROPERTIES, FLAGS, NUMBERS, WORDS
from qubes_vpn_profile import refuse_name
from qubes_vpn_profile_data import Finding, is_address, is_host_name, shown

_SERVICE = "org.freedesktop.NetworkManager.openvpn"
#: What NetworkManager puts among OpenVPN's words: with a - in front it would be an option.
_PLAIN = re.compile(r"(?!-)[A-Za-z0-9:._+@!?=-]{1,2000}\Z")
_NUMBER = re.compile(r"[0-9]{1,9}\Z")
#: What stands in the file of an option, so that another file in its place is named as such.
_CONTENT = {
    "ca": "CERTIFICATE",
    "cert": "CERTIFICATE",
    "crl-verify": "CRL",
    "extra-certs": "CERTIFICATE",
    "key": "PRIVATE KEY",
    "tls-auth": "OpenVPN Static key",
    "tls-crypt": "OpenVPN Static key",
    "tls-crypt-v2": "OpenVPN tls-crypt-v2 client key",
}


class Source(NamedTuple):
    """path: of the profile.  place: the folder for the files made.

    credentials: the folder of the profile's other files, or None where they are not at hand.
    """

    path: str
    credentials: Folder | None = None
    place: str = ""


def made(lines, source, profile, interface, pins):
    """The :class:`Made` of the *lines* of *profile*; raises :class:`UserError`."""
    reader = _Reader(source)
    for option in _flat(options(lines, source.path)):
        reader.option(option)
    return reader.made(profile, interface, pins)


def refusals(lines, path, profile, pins):
    """What :func:`made` would refuse *lines* for, as far as they show it: :class:`UserError`s."""
    reader, found = _Reader(Source(path)), []
    steps = [(reader.option, option) for option in _flat(options(lines, path))]
    for step, argument in [*steps, (lambda servers: reader.remotes(servers, pins), profile)]:
        try:
            step(argument)
        except UserError as error:
            found.append(error)
    return found


def _flat(found):
    """The options, those of <connection> blocks among them."""
    for option in found:
        if option.inside is None:
            yield option
        else:
            yield from option.inside


def _base(named):
    """The bare name of a file, also of one that a Windows program wrote down."""
    return re.split(r"[/\\]", named)[-1]


class _Reader:
    """One pass over the options; what it collects becomes the keyfile."""

    def __init__(self, source):
        self.source = source
        self.data, self.secrets, self.files, self.findings = {}, {}, {}, []
        self.resolvers, self.domains = [], []
        self.direction = None
        self.login = None  # the option auth-user-pass
        self.says_goodbye = self.ipv6_off = False

    def made(self, profile, interface, pins):
        data = {
            "service-type": _SERVICE,
            "connection-type": self._type(),
            "remote": ", ".join(self.remotes(profile, pins)),
            "dev": interface,
            "dev-type": "tun",
            **self.data,
        }
        if "ta" in data and "ta-dir" not in data:
            data["ta-dir"] = self.direction
        resolvers = {4: [], 6: []}
        for resolver in self.resolvers:
            resolvers[resolver.version].append(f"{resolver};")
        search = DNS["dns-search"] + "".join(f"{domain};" for domain in self.domains)
        sections = {
            "connection": {"type": "vpn"},
            "vpn": data,
            "vpn-secrets": self.secrets,
            "ipv4": {"method": "auto", "dns": "".join(resolvers[4]) or None, **DNS},
            "ipv6": {"method": "auto", "dns": "".join(resolvers[6]) or None, **DNS},
        }
        sections["ipv4"]["dns-search"] = sections["ipv6"]["dns-search"] = search
        if self.ipv6_off:
            sections["ipv6"] = OFF
        return Made(sections, self.files, self.findings)

    def option(self, option):
        name, words, line = option.name, option.words, option.line
        if name in FILE_PROPERTIES:
            self._file(option)
        elif name in FLAGS:
            self._set(line, name, FLAGS[name], "yes")
        elif name in NUMBERS:
            self._number(line, name, NUMBERS[name], words)
        elif name in WORDS:
            self._word(line, name, WORDS[name], words)
        elif name in _SPECIAL:
            _SPECIAL[name](self, option)

    # The options that need a line of their own.

    def _allow_compression(self, option):
        wanted = option.words[0] if option.words else ""
        if wanted == "yes":
            what = "compression can give away what is in the tunnel; 'asym' is set instead"
            self._find(option.line, option.name, what)
        self._set(option.line, option.name, "allow-compression", "no" if wanted == "no" else "asym")

    def _askpass(self, option):
        lines = self._lines_of(option, option.words[0]) if option.words else None
        if lines is not None:
            self.secrets["cert-pass"] = self._secret(lines, 0, option)
        self.data["cert-pass-flags"] = "0"

    def _auth_user_pass(self, option):
        self.login = option

    def _block_ipv6(self, _option):
        self.ipv6_off = True

    def _comp_lzo(self, option):
        wanted = option.words[0] if option.words else "adaptive"
        value = {"no": "no-by-default", "yes": "yes", "adaptive": "adaptive"}.get(wanted)
        if value is None:
            raise self._error(option, f"{shown(wanted)} is not possible", "Write 'comp-lzo no'.")
        self._set(option.line, option.name, "comp-lzo", value)

    def _compress(self, option):
        wanted = option.words[0] if option.words else ""
        if wanted in ("", "stub"):
            self._set(option.line, option.name, "compress", "yes")
        elif wanted in ("lzo", "lz4", "lz4-v2"):
            self._set(option.line, option.name, "compress", wanted)
        elif wanted in ("stub-v2", "migrate"):
            what = f"NetworkManager cannot ask for '{wanted}'; the server has to"
            self._find(option.line, option.name, what)
        else:
            raise self._error(option, f"{shown(wanted)} is not possible", "Remove the line.")

    def _dhcp_option(self, option):
        kind, value = (*option.words, "", "")[:2]
        if kind in ("DNS", "DNS6") and is_address(value):
            found = ipaddress.ip_address(value)
            if why := qubes_vpn_net.not_in_a_tunnel(found):
                what = f"{found} cannot be inside a tunnel: {why}"
                raise self._error(option, what, "Write it as the provider gives it.")
            self.resolvers.append(found)
        elif kind in ("DOMAIN", "DOMAIN-SEARCH", "ADAPTER_DOMAIN_SUFFIX") and is_host_name(value):
            self.domains.append(value)
        else:
            what = f"{shown(kind)} is not taken over"
            self._find(option.line, option.name, what)

    def _explicit_exit_notify(self, _option):
        self.says_goodbye = True

    def _keepalive(self, option):
        if len(option.words) != 2:
            raise self._error(option, "not 'keepalive SECONDS SECONDS'", "Write it that way.")
        self._number(option.line, option.name, "ping", option.words[:1])
        self._number(option.line, option.name, "ping-restart", option.words[1:])

    def _key_direction(self, option):
        if option.words[:1] not in (("0",), ("1",)):
            raise self._error(option, "neither 0 nor 1", "Write 'key-direction 1'.")
        self.direction = option.words[0]

    def _mssfix(self, option):
        if option.words:
            self._number(option.line, option.name, "mssfix", option.words)
        else:
            self._set(option.line, option.name, "mssfix", "yes")

    def _verify_x509_name(self, option):
        name, kind = (*option.words, "", "")[:2]
        kind = kind or "subject"
        proper = name.isprintable() and name and not name.startswith("-")
        if kind not in ("subject", "name", "name-prefix") or not proper:
            raise self._error(
                option, "not 'verify-x509-name NAME [subject|name|name-prefix]'", "Write it so."
            )
        self._set(option.line, option.name, "verify-x509-name", f"{kind}:{name}")

    # Words, numbers, files.

    def _word(self, line, name, prop, words):
        if not words or not _PLAIN.match(words[0]):
            raise self._error_at(line, name, "not one plain word", "Write it as openvpn(8) says.")
        self._set(line, name, prop, words[0])
        if name == "tls-version-min" and words[1:] == ("or-highest",):
            self._set(line, name, "tls-version-min-or-highest", "yes")
        else:
            self._no_more(line, name, words[1:])

    def _number(self, line, name, prop, words):
        if not words or not _NUMBER.match(words[0]):
            what = f"{shown(words[0])} is not a number" if words else "there is no number"
            raise self._error_at(line, name, what, "Write it as openvpn(8) says.")
        self._set(line, name, prop, str(int(words[0])))
        self._no_more(line, name, words[1:])

    def _no_more(self, line, name, words):
        if words:
            self._find(
                line, name, f"NetworkManager takes the first word only, not {shown(words[0])}"
            )

    def _set(self, line, name, prop, value):
        if self.data.get(prop, value) != value:
            self._find(line, name, "given again; the last one counts")
        self.data[prop] = value

    def _file(self, option):
        """The file of an option, or its block, as a file of its own beside the others."""
        name, words = option.name, option.words
        if option.body is not None:
            content = "\n".join([*option.body, ""]).encode()
        elif words[:1] == ("[inline]",):
            content = None  # the block comes further on
        else:
            content = self._content(option, words[0])
        if name == "tls-auth" and words[1:]:
            self._key_direction(option._replace(words=words[1:]))
        elif name == "crl-verify" and words[1:]:
            raise self._error(option, "a folder; NetworkManager takes one file", "Name the file.")
        if content is None:
            return
        # The lines before the first marker, and other texts, are comments.
        begun = re.findall(rb"^-----BEGIN ([^\r\n]*)-----", content, re.MULTILINE)
        if not any(_CONTENT[name].encode() in label for label in begun):
            what = f"there is no '-----BEGIN ... {_CONTENT[name]} ...-----' in it"
            raise self._error(option, what, "Get it from the provider again.")
        if name == "key" and re.search(rb"ENCRYPTED", content):
            self.data.setdefault("cert-pass-flags", "0")
        path = f"{self.source.place}/{name}"
        if self.files.get(path, content) != content:
            self._find(option.line, name, "given again; the last one counts")
        self.files[path] = content
        self.data[FILE_PROPERTIES[name]] = path

    def _content(self, option, named):
        """The bytes of the file that the profile calls *named*: it lies beside the profile.

        None where that is not at hand.
        """
        place = {"file": self.source.path, "line": option.line, "key": option.name}
        name = _base(named)
        refuse_name(name, **place)
        return self.source.credentials and self.source.credentials.read(name, place)

    # Who calls, and where.

    def _type(self):
        """NetworkManager's connection-type; reads the login that it asks for."""
        certificate = "cert" in self.data
        if self.data.get("cert-pass-flags") and "cert-pass" not in self.secrets:
            raise self._error_at(
                None, "key", "it is encrypted", "Add 'askpass FILE' with a file of its password."
            )
        if self.login is None:
            return "tls"
        self._login()
        return "password-tls" if certificate else "password"

    def _login(self):
        option = self.login
        if option.body is not None:
            lines = [line.strip() for line in option.body if line.strip()]
        else:
            asks = not option.words or option.words[0] in ("stdin", "username-only", "[inline]")
            named = login_file(self.source.path) if asks else option.words[0]
            lines = self._lines_of(option, named)
        self.data["username"] = self._secret(lines, 0, option)
        self.data["password-flags"] = "0"
        self.secrets["password"] = self._secret(lines, 1, option)

    def _lines_of(self, option, named):
        content = self._content(option, named)
        if content is None:
            return None
        path = self.source.credentials.path / _base(named)
        return [line.rstrip("\r") for line in text_of(content, path).split("\n")]

    def _secret(self, lines, at, option):
        """Line *at* of a file of secrets."""
        text = lines[at] if len(lines) > at else ""
        if not text.strip() or not text.isprintable():
            order = ("first", "second")[at]
            what = f"the {order} line of its file is no {'password' if at else 'text'}"
            fix = "The file has the user's name on line 1 and the password on line 2."
            if option.name == "askpass":
                fix = "The file has the key's password on line 1."
            raise self._error(option, what, fix)
        return text

    def remotes(self, profile, pins):
        """HOST:PORT:PROTOCOL of each server, numeric, pinned, in the profile's order."""
        servers = [endpoint.text for endpoint in profile.endpoints]
        for endpoint in profile.endpoints:
            pins.check(endpoint.text, int(endpoint.origin.removeprefix("line ")), "remote")
        for host in profile.hosts:
            for address in pins.addresses(host):
                written = f"[{address}]" if ":" in address else address
                servers.append(f"{written}:{host.port}/{host.proto}")
        # Without a protocol NetworkManager means UDP, and says goodbye to the server at the end.
        goodbye = self.says_goodbye and all(server.endswith("/udp") for server in servers)
        return dict.fromkeys(
            server.removesuffix("/udp") if goodbye else server.replace("/", ":")
            for server in servers
        )

    def _find(self, line, key, what):
        self.findings.append(Finding(line, key, what))

    def _error(self, option, what, fix):
        return self._error_at(option.line, option.name, what, fix)

    def _error_at(self, line, key, what, fix):
        return UserError(what, fix, file=self.source.path, line=line, key=key)


_SPECIAL = {
    "allow-compression": _Reader._allow_compression,
    "askpass": _Reader._askpass,
    "auth-user-pass": _Reader._auth_user_pass,
    "block-ipv6": _Reader._block_ipv6,
    "comp-lzo": _Reader._comp_lzo,
    "compress": _Reader._compress,
    "dhcp-option": _Reader._dhcp_option,
    "explicit-exit-notify": _Reader._explicit_exit_notify,
    "keepalive": _Reader._keepalive,
    "key-direction": _Reader._key_direction,
    "mssfix": _Reader._mssfix,
    "verify-x509-name": _Reader._verify_x509_name,
}
