# SPDX-License-Identifier: GPL-2.0-or-later
"""Four qubes in a row as network namespaces: client, vpn, net (with the endpoint), web.

    client eth0 -- vif7.0 vpn eth0 -- vif6.0 net eth1 -- eth0 web

Names, groups and addresses as Qubes gives them.  One process has sockets in all of them, so that a
packet is sent, and looked for at the far side, in the same breath.
"""

import ctypes
import os
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

#: In the payload of whatever a client or the qube itself sends.
MARKER = b"qubes-vpn-lab-marker"
CLIENT = {4: "10.137.0.20", 6: "fd09:24ef:4179::a89:14"}
VPN = {4: "10.137.0.6", 6: "fd09:24ef:4179::a89:6"}
NET = {4: "10.137.0.5", 6: "fd09:24ef:4179::a89:5"}
WEB = {4: "203.0.113.9", 6: "2001:db8:9::9"}
WEB_GATE = {4: "203.0.113.1", 6: "2001:db8:9::1"}
ENDPOINT = {4: "192.0.2.10", 6: "2001:db8:2::10"}
#: The VPN qube's address in the tunnel, and the server's.
INSIDE = {4: "10.64.0.2", 6: "fc00:64::2"}
INSIDE_SERVER = {4: "10.64.0.1", 6: "fc00:64::1"}
#: Index of the VPN qube's uplink, whatever it is called.
UPLINK = 100
WIDTH = {4: 32, 6: 128}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}

_NAMES = ("client", "vpn", "net", "web")
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET, linux/sched.h
_LIBC = ctypes.CDLL(None, use_errno=True)
_EVERYTHING = 0x0003  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING

#: What Qubes' base rules do to clients' traffic (qubes-core-agent-linux network/qubes-ipv4.nft).
_BASE = """
table {family} qubes {{
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifgroup 2 accept
        oif lo accept
        masquerade
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        ct state invalid counter drop
        ct state related,established accept
        oifgroup 2 counter drop
    }}
}}
"""


class Failed(Exception):
    """A program did not do what the scenario is built on."""


def run(name, *words, text=None, check=True):
    """Runs a program in a qube."""
    with inside(name):
        done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise Failed(f"{name}: {' '.join(words)}: {done.stdout}{done.stderr}")
    return done


def nft(text, check=True):
    """Loads rules in the VPN qube."""
    return run("vpn", "nft", "-f", "-", text=text, check=check)


def ip(name, *lines):
    """Lines for ip in a qube, of which the first that fails ends it."""
    done = subprocess.run(
        ["ip", "-n", name, "-batch", "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(f"{name}: {done.stderr} in {lines}")


@contextmanager
def inside(name):
    """Sockets that are made, and settings that are written, are of this qube."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        _enter(there)
        yield
    finally:
        _enter(here)
        os.close(here)
        os.close(there)


def _enter(descriptor):
    if _LIBC.setns(descriptor, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "setns")


def build():
    """Makes the four qubes, once for a virtual machine."""
    for name in _NAMES:
        subprocess.run(["ip", "netns", "add", name], check=True)
        with inside(name):
            _set("ipv6/conf/all/accept_dad", 0)
            _set("ipv6/conf/default/accept_dad", 0)
            _set("ipv6/conf/default/accept_ra", 0)
            _set("ipv6/conf/default/router_solicitations", 0)
            if name in ("vpn", "net"):
                _set("ipv4/ip_forward", 1)
                _set("ipv6/conf/all/forwarding", 1)
                # As wg-quick does, so that replies to marked packets are not taken for spoofed.
                _set("ipv4/conf/all/src_valid_mark", 1)
    ip("client", "link add eth0 type veth peer name vif7.0 netns vpn")
    ip("vpn", f"link add eth0 index {UPLINK} type veth peer name vif6.0 netns net")
    ip("web", "link add eth0 type veth peer name eth1 netns net")
    ip("client", *_up("eth0"), *_address("eth0", CLIENT), *_default("eth0", VPN))
    ip("vpn", *_up("vif7.0", 2), *_address("vif7.0", VPN), *_route(CLIENT, "vif7.0"))
    ip("vpn", *_up("eth0", 1), *_address("eth0", VPN), *_default("eth0", NET))
    ip("net", *_up("vif6.0", 2), *_address("vif6.0", NET), *_route(VPN, "vif6.0"))
    ip("net", *_up("lo"), *_address("lo", ENDPOINT))
    ip("net", *_up("eth1"), *_address("eth1", WEB_GATE), *_route(WEB, "eth1"))
    ip("web", *_up("eth0"), *_address("eth0", WEB), *_default("eth0", WEB_GATE))


def uplink_routes():
    """The VPN qube's way to the uplink, which goes with the device's old name or with its fall."""
    return _default("eth0", NET)


def _up(device, group=0):
    return [f"link set {device} group {group} up"]


def _address(device, addresses):
    return [f"addr add {addresses[v]}/{WIDTH[v]} dev {device}" for v in addresses]


def _route(addresses, device):
    return [f"route replace {addresses[v]}/{WIDTH[v]} dev {device}" for v in addresses]


def _default(device, gateway):
    return _route(gateway, device) + [
        f"route replace default via {gateway[v]} dev {device} onlink" for v in gateway
    ]


def _set(name, value):
    Path("/proc/sys/net", name).write_text(f"{value}\n")


def reset():
    """The VPN qube as Qubes leaves it at its start: base rules, no flows, nothing of ours."""
    nft("flush ruleset" + "".join(_BASE.format(family=family) for family in ("ip", "ip6")))
    run("vpn", "conntrack", "-F")
    for name in ("client", "net", "web"):
        ip(name, "route flush cache")


class Wire:
    """All that leaves the VPN qube from here on, seen at the far side of its uplink."""

    def __init__(self):
        with inside("net"):
            self._far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            self._far.bind(("vif6.0", _EVERYTHING))

    def frames(self):
        """What was seen until now, and ends.  Raises :class:`Failed` when it was blind."""
        probe = bytes.fromhex("0001080006040001") + os.urandom(20)
        with inside("vpn"):
            uplink = socket.if_indextoname(UPLINK)
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as near:
                near.bind((uplink, 0))
                near.send(b"\xff" * 6 + b"\x02" + bytes(5) + b"\x08\x06" + probe)
        self._far.settimeout(3)
        seen = []
        try:
            while not (seen and probe in seen[-1]):
                frame, (_, _, kind, *_) = self._far.recvfrom(65536)
                if kind != _OUTGOING:
                    seen.append(frame)
        except TimeoutError:
            raise Failed("the control frame was not seen") from None
        finally:
            self._far.close()
        return seen[:-1]


def captured(action, *arguments):
    """The frames, as hexadecimal text, that leave the VPN qube during ``action(*arguments)``."""
    wire = Wire()
    action(*arguments)
    time.sleep(0.05)
    return [frame.hex() for frame in wire.frames()]
