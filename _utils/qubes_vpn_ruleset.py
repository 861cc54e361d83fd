# SPDX-License-Identifier: GPL-2.0-or-later
"""The killswitch's rules as text for nft: what is added to ``closed.nft``, and the gates.

Pure: configuration in, text out.  The rules themselves are in
``salt/qubes/network/files/closed.nft``; this fills their sets.
"""

import re
from typing import NamedTuple

from qubes_vpn_endpoints import Elements
from qubes_vpn_problem import show

TABLE = "qubes_vpn"
#: SHA-256 of the ``closed.nft`` that belongs to this version.
CLOSED = "69bfc69576875aa0cc933c507140857cd579c2d97390d1ca71e9c6945d8cac97"
#: The bit of a packet's mark that the output chain of ``closed.nft`` sets.  Neither wg-quick's
#: fwmark (0xca6c) nor the Mullvad app's (0x6d6f6c65) has it.
MARK = 0x10000000
#: A tunnel's interface when nothing else is said, by kind of tunnel: the names that NetworkManager
#: profiles of ours, OpenVPN's and the Mullvad app's tunnels have.
INTERFACES = {"wireguard": "wg0", "openvpn": "tun0", "mullvad": "wg0-mullvad"}
DEFAULT_INTERFACES = tuple(INTERFACES.values())
#: Log lines begin so; ``journalctl -k --grep 'qubes-vpn drop'`` shows them (R44).
LOG_PREFIX = "qubes-vpn drop: "

#: What of ``closed.nft`` holds the tunnel's resolvers.
_RESOLVERS = {
    "resolvers4": "set",
    "resolvers6": "set",
    "first4": "map",
    "first6": "map",
    "second4": "map",
}
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}\Z", re.ASCII)


class NotAConfiguration(ValueError):
    """``killswitch.conf`` cannot be used.  ``problems``: each with its line, and the fix."""

    def __init__(self, problems):
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class Configuration(NamedTuple):
    """What opens the killswitch of one qube.  resolvers: texts, in order."""

    interfaces: tuple = DEFAULT_INTERFACES
    log: bool = False
    endpoints: Elements = Elements()
    resolvers: tuple = ()


def interface(name):
    """What is wrong with *name* as a tunnel's interface, or None.

    ``lo`` and Qubes' own names are refused here; that an Ethernet device is no tunnel is seen to
    by the rules, which look at the kind of the device.
    """
    if not _INTERFACE.match(name):
        return f"{show(name)} is not the name of an interface"
    if name == "lo" or name.startswith(("vif", "eth")):
        return f"'{name}' is not a tunnel"
    return None


def read_settings(data, where="killswitch.conf"):
    """``(interfaces, log)`` from *data*, the bytes of a file called *where*.

    Lines ``interface = NAME`` (any number) and ``log = yes|no``; ``#`` comments.
    Raises :class:`NotAConfiguration` for anything else.
    """
    interfaces, log, problems = [], False, []
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise NotAConfiguration([f"{where}: not plain text. {_HOW}"]) from None
    for number, line in enumerate(lines, 1):
        text = line.removesuffix("\r").partition("#")[0].strip(" \t")
        if not text:
            continue
        key, equals, value = (part.strip(" \t") for part in text.partition("="))
        if key == "interface" and equals:
            if wrong := interface(value):
                problems.append(f"{where}:{number}: {wrong}. {_HOW}")
            interfaces.append(value)
        elif key == "log" and value in ("yes", "no"):
            log = value == "yes"
        else:
            problems.append(f"{where}:{number}: {show(text)} is not known. {_HOW}")
    if problems:
        raise NotAConfiguration(problems)
    return tuple(dict.fromkeys(interfaces)) or DEFAULT_INTERFACES, log


_HOW = "Write lines 'interface = wg0' and 'log = yes' or 'log = no'."


def write_settings(interfaces, log):
    """The text of a ``killswitch.conf``."""
    return "".join(f"interface = {name}\n" for name in interfaces) + f"log = {_yes(log)}\n"


def _yes(value):
    return "yes" if value else "no"


def transaction(closed, configuration=None, devices=(), stale=()):
    """Everything that nft loads at once.

    closed: the text of ``closed.nft``.  configuration: a :class:`Configuration`, None for closed.
    devices, stale: as for :func:`gates`.
    """
    return closed + _opening(configuration) + gates(devices, stale)


def _opening(configuration):
    if configuration is None:
        return ""
    quoted = [f'"{name}"' for name in configuration.interfaces]
    text = _elements("tunnel_names", quoted)
    for name, elements in configuration.endpoints._asdict().items():
        text += _elements(name, elements)
    text += _resolvers(configuration.resolvers)
    if configuration.log:
        text += (
            f"add rule inet {TABLE} note limit rate 10/second burst 20 packets "
            f'log prefix "{LOG_PREFIX}" level info\n'
        )
    return text


def resolving(addresses):
    """Clients' DNS goes to these resolvers and no longer to others; nowhere, if there are none.

    For a table that is loaded; one transaction.
    """
    emptied = (f"flush {kind} inet {TABLE} {name}\n" for name, kind in _RESOLVERS.items())
    return "".join(emptied) + _resolvers(addresses)


def used(addresses):
    """Those of the resolvers *addresses* that are used, in their order: two of IPv4, one of IPv6.

    Qubes gives clients two addresses to ask, of IPv4.
    """
    four = [address for address in addresses if ":" not in address][:2]
    six = [address for address in addresses if ":" in address][:1]
    return tuple(address for address in addresses if address in (*four, *six))


def _resolvers(addresses):
    """A resolver of IPv6 is for who asks one."""
    four = [address for address in used(addresses) if ":" not in address]
    six = [address for address in used(addresses) if ":" in address]
    places = {"first4": four[:1], "second4": four[1:], "first6": six}
    text = _elements("resolvers4", four) + _elements("resolvers6", six)
    for name, found in places.items():
        text += _elements(name, [f"{kind} : {one}" for one in found for kind in ("tcp", "udp")])
    return text


def _elements(name, elements):
    return f"add element inet {TABLE} {name} {{ {', '.join(elements)} }}\n" if elements else ""


def gates(devices, stale=()):
    """The egress gates: nothing leaves a device but ARP and what the output chain marked.

    devices: ``(index, name)`` of those that get one.  stale: indices of gates that are taken away.
    A gate sees raw packet sockets (a DHCP client's) and offloaded flows, which the inet hooks
    never do; AF_XDP sockets and what ``tc`` redirects go past both.  Kernels before 6.16 or so
    keep a gate on its device whatever that is called; newer ones bind it by name.
    """
    table = f"netdev {TABLE}"
    text = f"add table {table}\n" if devices else ""
    for index in stale:
        text += f"flush chain {table} egress-{index}\ndelete chain {table} egress-{index}\n"
    for index, name in devices:
        chain = f"{table} egress-{index}"
        hook = f'type filter hook egress device "{name}" priority filter; policy drop;'
        text += (
            f"add chain {chain} {{ {hook} }}\n"
            f"flush chain {chain}\n"
            f"add rule {chain} meta protocol arp accept\n"
            f"add rule {chain} meta mark & {MARK:#x} != 0 accept\n"
            f"add rule {chain} counter drop\n"
        )
    return text
