# SPDX-License-Identifier: GPL-2.0-or-later
"""DNS stamps: ``sdns://`` and in it, in base64, all that is needed to reach one server.

Grammar: https://dnscrypt.info/stamps-specifications.  Read as strictly as dnscrypt-proxy 2.1.8
reads them (its library go-dnsstamps), and more strictly where a server could then not be reached
behind a VPN: nothing in a resolver qube may look up a name or use port 53 or 853 in plain.
"""

import base64
import ipaddress
import re
from typing import NamedTuple

import qubes_vpn_net

DNSCRYPT, DOH, RELAY = "DNSCrypt", "DoH", "relay"
#: Of a stamp that names none.
PORT = 443
#: Plain DNS and DNS over TLS or QUIC: closed in a resolver qube, in both directions.
CLOSED_PORTS = (53, 853)

_KINDS = {0x01: DNSCRYPT, 0x02: DOH, 0x81: RELAY}
_OTHERS = {
    0x00: "of plain DNS, which the network could read and change",
    0x03: "of DNS over TLS, which dnscrypt-proxy does not speak",
    0x04: "of DNS over QUIC, which dnscrypt-proxy does not speak",
    0x05: "of Oblivious DoH: it holds no address, and its name would have to be looked up",
    0x85: "of a relay for Oblivious DoH, whose servers have no address in their stamps",
}
_FORM = re.compile(r"sdns://[A-Za-z0-9_-]{4,1400}\Z")
_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?\Z")
_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.]+\])(?::([0-9]{1,5}))?\Z")
_PATH = re.compile(r"/[!-~]*\Z")
_COPY = "Copy it whole, from 'sdns://' on, from the operator or from a list of public resolvers."


class Stamp(NamedTuple):
    """A server, or a relay for anonymized DNSCrypt.

    kind: DNSCRYPT, DOH or RELAY.  address: of :mod:`ipaddress`.  name: the provider's (DNSCrypt),
    the host's (DoH), or empty.
    """

    kind: str
    address: object
    port: int
    name: str


class NotAStamp(ValueError):
    """*what* is wrong with a stamp, and the *fix*."""

    def __init__(self, what, fix=_COPY):
        super().__init__(f"{what}. {fix}")
        self.what, self.fix = what, fix


def read(text):
    """The :class:`Stamp` in *text*.  Raises :class:`NotAStamp`."""
    if not isinstance(text, str) or not text.startswith("sdns:"):
        raise NotAStamp("it does not begin with 'sdns://'")
    data = _decoded(text)
    if data[0] in _OTHERS:
        fix = f"Use a stamp of {DNSCRYPT}, or of {DOH} with an address."
        raise NotAStamp(f"it is {_OTHERS[data[0]]}", fix)
    if data[0] not in _KINDS:
        raise NotAStamp(f"it is of a kind that is not known, 0x{data[0]:02x}")
    kind = _KINDS[data[0]]
    rest = _Rest(data, 1 if kind == RELAY else 9)  # 8 bytes: what the server says of itself
    address = rest.text()
    if kind == RELAY:
        found = Stamp(kind, *_address(address), "")
    elif kind == DNSCRYPT:
        found = _dnscrypt(address, rest)
    else:
        found = _doh(address, rest)
    if rest.left():
        raise NotAStamp(f"it has {rest.left()} bytes too many")
    return found


def _decoded(text):
    form = _FORM.match(text)
    if not form:
        raise NotAStamp("after 'sdns://' it is not base64 as in addresses, without '='")
    body = text[len("sdns://") :]
    try:
        data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except ValueError:
        raise NotAStamp("it is cut off: its length is not that of base64") from None
    if base64.urlsafe_b64encode(data).decode().rstrip("=") != body:
        raise NotAStamp("it is cut off or changed: its last character has bits that mean nothing")
    return data


def _dnscrypt(address, rest):
    key = rest.bytes()
    # The shortest that dnscrypt-proxy takes; a shorter one has a name such as "a".
    if len(rest.data) < 66:
        raise NotAStamp("it is too short for one of a DNSCrypt server")
    if len(key) != 32:
        raise NotAStamp(f"its server's key has {len(key)} bytes, and not 32")
    name = rest.text()
    if not _HOST.match(name) or ":" in name:
        raise NotAStamp("its provider's name is not the name of a host")
    return Stamp(DNSCRYPT, *_address(address), name)


def _doh(address, rest):
    for digest in rest.several():
        if len(digest) not in (0, 32):
            raise NotAStamp(f"its certificate's hash has {len(digest)} bytes, and not 32")
    host, path = rest.text(), rest.text()
    if not address:
        raise NotAStamp(
            "it holds no address, so that its name would have to be looked up in plain",
            "Use a stamp that holds the server's address.",
        )
    address, port = _address(address)
    form = _HOST.match(host)
    if not form:
        raise NotAStamp("it holds no name of a host that is one")
    if not _PATH.match(path):
        raise NotAStamp("its path is not one of a web address: it begins with '/'")
    # dnscrypt-proxy takes the port from the host's name, and the address without its port.
    used = _port(form[2])
    if port not in (PORT, used):
        raise NotAStamp(
            f"its address says port {port} and its host {used}, which dnscrypt-proxy would use",
            "Use a stamp in which both say the same.",
        )
    return Stamp(DOH, address, used, form[1])


def _address(text):
    form = _ADDRESS.match(text)
    try:
        address = ipaddress.ip_address(form[1] or form[2])
        if (address.version == 6) != bool(form[1]):
            raise ValueError
    except (TypeError, ValueError):
        raise NotAStamp("it holds no IP address that is one") from None
    port = _port(form[3])
    why = qubes_vpn_net.not_in_a_tunnel(address)
    if why or address.is_link_local:
        raise NotAStamp(
            f"no server can be at {address}: {why or 'link-local'}",
            "Use a stamp with the server's own address.",
        )
    return address, port


def _port(text):
    port = PORT if text is None else int(text)
    if not 1 <= port <= 65535:
        raise NotAStamp(f"it holds the port {port}, and ports are 1 to 65535")
    if port in CLOSED_PORTS:
        raise NotAStamp(
            f"its server is on port {port}, which is closed in a resolver qube",
            "Use a stamp of a server on another port; 443 gets through most VPNs.",
        )
    return port


class _Rest:
    """What of the stamp is not read yet: byte strings, each after its length in one byte."""

    def __init__(self, data, place):
        self.data, self.place = data, place

    def left(self):
        return len(self.data) - self.place

    def bytes(self, mask=0xFF):
        if self.left() < 1 or self.left() < 1 + (length := self.data[self.place] & mask):
            raise NotAStamp("it is cut off")
        start = self.place + 1
        self.place = start + length
        return self.data[start : self.place]

    def text(self):
        try:
            return self.bytes().decode("ascii")
        except UnicodeDecodeError:
            raise NotAStamp("it holds characters that no address or name has") from None

    def several(self):
        """Byte strings; the length of each but the last has its highest bit set."""
        found, more = [], 0x80
        while more:
            more = self.data[self.place] & 0x80 if self.left() else 0
            found.append(self.bytes(0x7F))
        return found
