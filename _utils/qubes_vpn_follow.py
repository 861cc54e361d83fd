# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients' DNS follows the tunnel: to the resolvers that it names, once they answer.

Whose they are the tunnel's own program says: NetworkManager of its connection, the Mullvad app in
``resolv.conf``.  Taken is only what is reached by the tunnel, and has answered a real question that
was sent into it.  What is no longer named is closed before anything is asked; what no longer
answers is closed as well.

It listens, so that a change is followed at once: to the kernel (devices, addresses, routes), and to
SIGHUP, by which NetworkManager's dispatcher and a change of ``resolv.conf`` are told.
"""

import ipaddress
import itertools
import os
import select
import signal
import socket
import time
from pathlib import Path

import qubes_vpn_connections
import qubes_vpn_killswitch
import qubes_vpn_loading
import qubes_vpn_net
import qubes_vpn_nft
import qubes_vpn_nm
import qubes_vpn_question
import qubes_vpn_ruleset
import qubes_vpn_tunnel
from qubes_vpn_killswitch import IN_TEMPLATE, Unusable
from qubes_vpn_nft import Failed

#: The units of it, which start with the qube.
SERVICE, PATH = "qubes-vpn-follow.service", "qubes-vpn-resolv.path"
_ENABLED = Path("/etc/systemd/system/multi-user.target.wants")
_NEEDED = (_ENABLED / SERVICE, _ENABLED / PATH)
#: Where names of resolvers are written; the second has what is behind systemd-resolved's stub.
_RESOLV = Path("/etc/resolv.conf")
_BEHIND_STUB = Path("/run/systemd/resolve/resolv.conf")
_STUB = "127.0.0.53"
#: Seconds after which it looks though nothing was heard: while clients' DNS is open, while nobody
#: answers, while the tunnel names nobody.
_OPEN, _SILENT, _NOBODY = 30, 1, 5
#: Seconds for which an answer is waited for.
_PATIENCE = 15
#: Seconds for which changes that come together are waited for.
_TOGETHER = 0.05
#: linux/rtnetlink.h: links, addresses, routes and rules of both families (rules of IPv4 alone).
_CHANGES = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400


class Ears:
    """What tells of a change; ``wake`` are its file descriptors."""

    def __init__(self):
        self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._kernel.bind((0, _CHANGES))
        self._kernel.setblocking(False)
        told, tell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGHUP, lambda *_: None)
        signal.set_wakeup_fd(tell)
        self.wake = [self._kernel.fileno(), told]

    def hear(self, seconds):
        """Waits for a change, or *seconds*."""
        ready, _, _ = select.select(self.wake, [], [], seconds)
        if ready:
            time.sleep(_TOGETHER)
        for one in ready:
            self._drain(one)

    @staticmethod
    def _drain(one):
        try:
            while os.read(one, 1 << 16):
                pass
        except OSError:  # nothing more; or more than the kernel could keep
            return


def named():
    """``{address: device}``: resolvers that the tunnel names and that are in it, in its order.

    Raises ``Failed`` or ``Unusable`` when that cannot be known.
    """
    interfaces, _ = qubes_vpn_killswitch.settings()
    tunnel = qubes_vpn_connections.configured()
    said = _by_networkmanager(tunnel) if tunnel else _written()
    devices = {str(address): _device(address) for address in filter(None, map(_usable, said))}
    return {address: device for address, device in devices.items() if device in interfaces}


def _by_networkmanager(tunnel):
    seen = qubes_vpn_nm.active()
    for uuid in qubes_vpn_connections.ours(seen):
        if qubes_vpn_tunnel.state(uuid, seen, tunnel.interface) == "up":
            return qubes_vpn_nm.resolvers(uuid)
    return []


def _written():
    found = _nameservers(_RESOLV)
    return _nameservers(_BEHIND_STUB) if _STUB in found else found


def _nameservers(path):
    lines = qubes_vpn_killswitch.read(path, missing=b"").decode("ascii", "replace").splitlines()
    words = (line.split() for line in lines)
    return [line[1] for line in words if line[:1] == ["nameserver"] and line[1:]]


def _usable(text):
    """The address, if a resolver in a tunnel may have it; never one of Qubes, the uplink's."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if address.is_link_local or qubes_vpn_net.not_in_a_tunnel(address):
        return None
    return address


def _device(address):
    """The tunnel by which *address* is reached; empty: by none."""
    try:
        words = qubes_vpn_nft.run("ip", "route", "get", str(address)).split()
    except Failed:
        return ""
    device = dict(itertools.pairwise(words)).get("dev", "")
    return device if device and qubes_vpn_nft.is_tunnel(device) else ""


def turn(library, wake=()):
    """Looks once, and does what is to be done; returns seconds until the next look.

    wake: see :func:`qubes_vpn_question.ask`.  Raises what :func:`named` and
    :func:`qubes_vpn_killswitch.resolve` do; then clients' DNS is to be closed.
    """
    devices = named()
    opened = qubes_vpn_killswitch.resolvers()
    kept = tuple(address for address in opened if address in devices)
    if kept != opened:
        _tell(qubes_vpn_killswitch.resolve(library, kept))
    if not devices or not qubes_vpn_nft.is_open():
        return _NOBODY
    begin = time.monotonic()
    answered = qubes_vpn_ruleset.used(qubes_vpn_question.ask(devices, wake=wake))
    if not answered and select.select(wake, [], [], 0)[0]:
        return 0  # something else is so by now, and it had no time to answer
    if answered != kept:
        _tell(qubes_vpn_killswitch.resolve(library, answered))
        if {*answered} - {*kept}:
            qubes_vpn_loading.read_lists_again()
    return _OPEN if answered else max(0, begin + _SILENT - time.monotonic())


def _tell(addresses):
    print(f"qubes-vpn: clients' DNS: {', '.join(addresses) or 'closed'}", flush=True)  # journal


def run(library):
    """The follower; never returns.  Begins closed."""
    ears, told = Ears(), None
    close(library)
    while True:
        trouble, wait = None, _SILENT
        try:
            wait = turn(library, ears.wake)
        except Exception as error:  # whatever it was: closed, and it goes on
            trouble = _words(error)
            wait = _NOBODY
            close(library)
        if trouble != told and trouble:
            print(f"qubes-vpn: clients' DNS is closed: {trouble}", flush=True)
        told = trouble
        ears.hear(wait)


def close(library):
    """Clients' DNS goes nowhere; answers whether that is so."""
    try:
        qubes_vpn_killswitch.resolve(library, ())
    except (Failed, OSError) as error:
        print(f"qubes-vpn: clients' DNS is as it was: {_words(error)}", flush=True)
        return False
    return True


def _words(error):
    if isinstance(error, Unusable):
        return "; ".join(error.args)
    if isinstance(error, Failed | OSError):
        return str(error)
    return type(error).__name__  # its text may hold what was read


def lacking():
    """Why clients' DNS would not follow the tunnel at each start."""
    if not (IN_TEMPLATE / "dns").exists():
        return [
            "this qube's template has nothing that follows the tunnel's DNS: apply the formula to "
            "the template, restart this qube, and run this again"
        ]
    return [f"{path} is not there. Apply the formula" for path in _NEEDED if not path.exists()]


def status():
    """What holds, as plain data; changes nothing.

    ``state``: ``open`` or ``closed``; ``why``: it is closed, a list of texts; ``resolvers``: where
    clients' DNS goes, the first one first; ``named``: what the tunnel names; ``follows``: whether
    changes are followed; ``problems``: what keeps it from being so, now and at the next start.
    """
    follows = all(_is_active(unit) for unit in (SERVICE, PATH))
    killswitch = qubes_vpn_killswitch.status()
    problems, found = lacking(), {}
    if not follows and not problems:
        problems.append(f"nobody follows the tunnel's DNS. systemctl start {SERVICE} {PATH}")
    try:
        found = named()
    except (Failed, Unusable) as error:
        problems += error.args
    is_open = killswitch["state"] == "open"
    opened = killswitch["resolvers"] if is_open else []
    if not is_open:
        problems.append(f"the killswitch is {killswitch['state']}: no DNS without it")
    return {
        "state": "open" if opened else "closed",
        "why": [_why_closed(found)] if is_open and not opened else [],
        "resolvers": opened,
        "named": list(found),
        "follows": follows,
        "problems": problems,
    }


def _why_closed(found):
    if found:
        return f"closed: no answer through the tunnel from {', '.join(found)}"
    if not _is_up():
        return "closed: no tunnel is up"
    return (
        "closed: the tunnel is up and names no resolver that is in it. Give its profile one: "
        "'DNS = ADDRESS' for WireGuard, 'dhcp-option DNS ADDRESS' for OpenVPN"
    )


def opened():
    """Starts the follower if need be, and waits for DNS to be open; the :func:`status` by then.

    Raises ``Failed``.  Not waited for is what nobody brings up.
    """
    qubes_vpn_nft.run("systemctl", "start", SERVICE, PATH)
    until = time.monotonic() + _PATIENCE
    while not qubes_vpn_killswitch.resolvers() and has_tunnel() and time.monotonic() < until:
        time.sleep(0.1)
    return status()


def has_tunnel():
    """Whether a tunnel is up, or NetworkManager's watchdog is to bring one up."""
    try:
        return _is_up() or qubes_vpn_connections.configured() is not None
    except Unusable:
        return False


def _is_up():
    interfaces, _ = qubes_vpn_killswitch.settings()
    return any(qubes_vpn_nft.is_tunnel(name) and qubes_vpn_nft.is_up(name) for name in interfaces)


def _is_active(unit):
    try:
        qubes_vpn_nft.run("systemctl", "is-active", unit)
    except Failed:
        return False
    return True
