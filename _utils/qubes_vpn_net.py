# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses as users write them, and as the Qubes firewall wants them.

One grammar serves endpoints and allowlists::

    185.65.135.68:51820/udp    [2a03:1b20::1]:51820/udp    185.65.135.64/28:443/tcp
    bank.example:443/tcp       203.0.113.9:5000-5010/tcp   dns   icmp

Rules are written the way qubesd hands them back (canonical: ``/32``, ``443-443``), so that
they can be compared as text.  Grammar and limits: qubes-core-admin ``qubes/firewall.py`` and
``qubes/api/admin.py``; every syntax error is answered there with silence, hence the checks here.
"""

import contextlib
import ipaddress
import re
from typing import NamedTuple

from qubes_vpn_problem import show

#: Bytes of rules that one ``admin.vm.firewall.Set`` may carry: qubesd hangs up on a request of more
#: than 65,536, of which the line before the rules takes up to 65 (``qubes/api/__init__.py``).
FIREWALL_LIMIT = 65536 - len("admin.vm.firewall.Set+ dom0 name \0") - 31
#: An endpoint prefix wider than this is a network, not a VPN server (bits, by IP version).
WIDEST_ENDPOINT = {4: 16, 6: 32}
#: NAT64: its last 32 bits are an IPv4 address, so a prefix there counts as one of IPv4.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

_LINK_LOCAL = "link-local"
#: Where no VPN server is.  Qubes' own: qubes-core-admin ``qubes/vm/mix/net.py`` and, for IPv6,
#: ``qubes/config.py``.  Private networks may hold one.
_NO_SERVER = {
    "10.137.0.0/16": "Qubes gives it to qubes",
    "10.138.0.0/16": "Qubes gives it to disposables",
    "10.139.0.0/16": "Qubes uses it for DNS",
    "fd09:24ef:4179::/48": "Qubes gives it to qubes",
    "0.0.0.0/8": "it means this machine",
    "::/128": "it means this machine",
    "127.0.0.0/8": "it means this machine",
    "::1/128": "it means this machine",
    "169.254.0.0/16": _LINK_LOCAL,
    "fe80::/10": _LINK_LOCAL,
    "224.0.0.0/4": "multicast",
    "ff00::/8": "multicast",
    "240.0.0.0/4": "reserved",
    "::ffff:0:0/96": "it is IPv4, so write that",
    "2001::/32": "Teredo, which leads to every IPv4 address",
    "2002::/16": "6to4, which leads to every IPv4 address",
}
_NO_SERVER = [(ipaddress.ip_network(network), why) for network, why in _NO_SERVER.items()]
# As numbers: an `overlaps` for each of 50,000 endpoints takes seconds.
_NO_SERVER = [
    (network.version, int(network[0]), int(network[-1]), network, why)
    for network, why in _NO_SERVER
]

_FORM = re.compile(
    r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*):"
    r"(?P<first>\d{1,6})(?:-(?P<last>\d{1,6}))?/(?P<proto>[A-Za-z0-9]+)\Z",
    re.ASCII,
)
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\Z")


#: As qubesadmin has it: words in an order of its own.
_RULE = re.compile(
    r"action=accept proto=(?P<proto>tcp|udp) (?P<kind>dst4|dst6|dsthost)=(?P<host>\S+)"
    r" dstports=(?P<first>\d+)-(?P<last>\d+)"
)
_WORDS = {"action=accept specialtarget=dns": "dns", "action=accept proto=icmp": "icmp"}


class Notation(NamedTuple):
    """How one kind of destination is written: its *form*, and examples of it."""

    form: str
    example: str


ENDPOINT = Notation("ADDRESS:PORT/PROTOCOL", '185.65.135.68:51820/udp, "[2001:db8::1]:443/tcp"')
LISTED = Notation(
    "HOST:PORT/PROTOCOL", 'www.bank.example:443/tcp, 203.0.113.9:443/tcp, "[2001:db8::9]:443/tcp"'
)


class Destination(NamedTuple):
    """What traffic may be sent to.  *version* is 4, 6 or 0 (a host name, ``dns`` or ``icmp``)."""

    version: int
    host: str
    first: int = 0
    last: int = 0
    proto: str = ""

    @property
    def text(self):
        """As it is written in the pillar."""
        if not self.proto:
            return self.host
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        host = self.host
        if self.version:
            address, _, bits = host.partition("/")
            host = address if bits == ("32" if self.version == 4 else "128") else host
            host = f"[{host}]" if self.version == 6 else host
        return f"{host}:{ports}/{self.proto}"

    @property
    def rule(self):
        """The accepting qvm-firewall rule, as qubesd prints it."""
        if self.host == "dns":
            return "action=accept specialtarget=dns"
        if self.host == "icmp":
            return "action=accept proto=icmp"
        kind = f"dst{self.version}" if self.version else "dsthost"
        ports = f"{self.first}-{self.last}"
        return f"action=accept {kind}={self.host} proto={self.proto} dstports={ports}"


class NotADestination(ValueError):
    """*what* is wrong with a destination, and the *fix*."""

    def __init__(self, what, fix):
        super().__init__(f"{what}. {fix}")
        self.what, self.fix = what, fix


def endpoint(text):
    """A :class:`Destination` from one numeric endpoint.

    Raises :class:`NotADestination` for anything else: host names too, because a name that does
    not resolve blocks all traffic of its qube, and one that does is looked up in clear.
    """
    if text in ("dns", "icmp"):
        raise NotADestination(f"'{text}' is not an endpoint", f"Write numbers: {ENDPOINT.example}.")
    found = _parse(text, ENDPOINT)
    if not found.version:
        raise NotADestination(
            f"'{found.host}' is a host name",
            "Endpoints are numeric: look the name up once and write the address.",
        )
    network = ipaddress.ip_network(found.host)
    widest = WIDEST_ENDPOINT[network.version]
    if network.version == 6 and network.overlaps(_NAT64):
        widest = _NAT64.prefixlen + WIDEST_ENDPOINT[4]
    if network.prefixlen < widest:
        raise NotADestination(
            f"{network} is too wide for an endpoint", f"The widest prefix is /{widest}."
        )
    low, high = int(network[0]), int(network[-1])
    for version, first, last, other, why in _NO_SERVER:
        if network.version == version and low <= last and first <= high:
            raise NotADestination(
                f"'{text}' cannot be a VPN server, because of {other}: {why}",
                f"Write the server's own address, as in {ENDPOINT.example}.",
            )
    return found


def not_in_a_tunnel(address):
    """Why *address* (of :mod:`ipaddress`) is neither a tunnel's nor that of a resolver in it.

    Empty when it may be: link-local ones may, and private ones.
    """
    for version, first, last, other, why in _NO_SERVER:
        if address.version == version and first <= int(address) <= last and why != _LINK_LOCAL:
            return f"{other}, {why}"
    return ""


def destination(text):
    """A :class:`Destination` from one allowlist entry; raises :class:`NotADestination`."""
    if text in ("dns", "icmp"):
        return Destination(0, text)
    return _parse(text, LISTED)


def rules(destinations):
    """The whole qvm-firewall list that admits *destinations* and nothing else."""
    return [found.rule for found in destinations] + ["action=drop"]


def written(rule):
    """The pillar's text for a rule as qubesadmin has it, or None when it has none."""
    if rule in _WORDS:
        return _WORDS[rule]
    found = _RULE.fullmatch(rule)
    if not found:
        return None
    version = {"dst4": 4, "dst6": 6, "dsthost": 0}[found["kind"]]
    ports = int(found["first"]), int(found["last"])
    return Destination(version, found["host"], *ports, found["proto"]).text


def rules_size(lines):
    """Bytes that *lines* take in one ``admin.vm.firewall.Set``."""
    return sum(len(line) + 1 for line in lines)


def _parse(text, notation):
    form = _FORM.match(text)
    if not form:
        raise _malformed(text, notation)
    host, proto = form["host"], form["proto"]
    first = int(form["first"])
    last = int(form["last"] or first)
    if proto not in ("udp", "tcp"):
        raise NotADestination(f"protocol '{proto}' is not known", "Write udp or tcp.")
    if not 1 <= first <= last <= 65535:
        what = f"ports {first}-{last} are" if form["last"] else f"port {first} is"
        raise NotADestination(f"{what} not possible", "Ports are 1 to 65535, the lower one first.")
    version, host = _host(host.strip("[]"), host.startswith("["), notation)
    return Destination(version, host, first, last, proto)


def _malformed(text, notation):
    """The error of what has not the form of a destination, with what was probably meant."""
    if "*" in text:
        return _wildcard(text)
    if text.count(":") > 2 and "[" not in text:
        return NotADestination(
            f"{show(text)} is an IPv6 address without brackets",
            'Write it in brackets and in quotes: "[2001:db8::1]:443/tcp".',
        )
    meant = _meant(text) if notation is LISTED else None
    fix = f"Write {meant}." if meant else f"Write it as in {notation.example}."
    return NotADestination(f"{show(text)} is not {notation.form}", fix)


def _meant(text):
    """What was probably meant by *text*, in words, or None."""
    host = re.sub(r"^[a-z]+://|/(?!\d+\Z).*|\.\Z", "", text.lower())
    if host in ("dns", "icmp"):
        return host
    for whole in (f"{host}/tcp", f"{host}:443/tcp"):
        if _FORM.match(whole) and {*".["} & {*host}:
            with contextlib.suppress(NotADestination):
                found = _parse(whole, LISTED)
                return f"{_quoted(found)}, or another port"
    return None


def _quoted(found):
    """For YAML, in which a bracket begins a list."""
    return f'"{found.text}"' if found.version == 6 else found.text


def _wildcard(text):
    return NotADestination(
        f"{show(text)} has a wildcard, and the Qubes firewall knows none: it looks up each name",
        "List every host by itself, as in www.bank.example:443/tcp; the browser's network view has "
        "those that a page loads from.",
    )


def _host(host, bracketed, notation):
    if bracketed or re.fullmatch(r"[0-9./]+", host):
        try:
            if "%" in host:  # an IPv6 zone, which Python takes and qubesd does not
                raise ValueError
            network = ipaddress.ip_network(host, strict=False)
        except ValueError:
            raise NotADestination(
                f"{show(host)} is not an IP address", f"Write it as in {notation.example}."
            ) from None
        if bracketed != (network.version == 6):
            raise NotADestination(
                f"'{host}' is IPv{network.version}", "Brackets are for IPv6 addresses only."
            )
        if ipaddress.ip_address(host.partition("/")[0]) != network.network_address:
            raise NotADestination(
                f"'{host}' is an address inside a network",
                f"Write the network {network}, or the address without a prefix.",
            )
        return network.version, str(network)
    if "*" in host:
        raise _wildcard(host)
    if host != host.lower() and _HOST.match(host.lower()):
        raise NotADestination(f"'{host}' has capital letters", f"Write {host.lower()}.")
    # A name whose last part is a number is none (RFC 3696, 2), and a range of addresses, perhaps.
    if not _HOST.match(host) or host.rpartition(".")[2].isdigit():
        fix = "Names hold a to z, digits and '-', at most 63 between dots; addresses are as in"
        raise NotADestination(f"{show(host)} is not a host name", f"{fix} {notation.example}.")
    return 0, host
