# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the server of a WireGuard tunnel answers: its handshakes, by wg(8).

A WireGuard interface is up as soon as it is there, whoever is at the other end, and it speaks to a
server only when there is something to send.
"""

from qubes_vpn_nft import run


def made(interface):
    """Whether a server ever answered since the *interface* was made; raises ``Failed``.

    Not how long ago: a tunnel that nobody uses makes no further handshakes, and is none the worse.
    NetworkManager makes the interface anew each time, so that it has none of before.
    """
    said = run("wg", "show", interface, "latest-handshakes")  # KEY, TAB, seconds since 1970 or 0
    return any(line.split()[1:] not in ([], ["0"]) for line in said.splitlines())


def last(interface):
    """When the server answered last, in seconds since 1970; None: never.  Raises ``Failed``."""
    said = run("wg", "show", interface, "latest-handshakes")
    times = [line.split()[1] for line in said.splitlines() if len(line.split()) > 1]
    return max(map(int, times), default=0) or None


def server(interface):
    """``ADDRESS:PORT`` of the server, IPv6 in brackets, or None; raises ``Failed``."""
    said = run("wg", "show", interface, "endpoints")  # KEY, TAB, address or "(none)"
    words = [line.split()[1] for line in said.splitlines() if len(line.split()) > 1]
    # One on this link has its zone in it, which is a name.
    return next((word for word in words if word != "(none)" and "%" not in word), None)


def provoke(interface):
    """Has WireGuard make a handshake though nobody sends anything; raises ``Failed``.

    A keepalive that is switched on is sent at once (wg(8); ``set_peer`` of the kernel's
    ``drivers/net/wireguard/netlink.c``, and wireguard-go's ``device/uapi.go``); it is switched off
    again.  A peer that has one already needs no help.
    """
    said = run("wg", "show", interface, "persistent-keepalive")  # KEY, TAB, seconds or "off"
    for line in said.splitlines():
        key, _, seconds = line.partition("\t")
        if seconds == "off":
            for interval in ("25", "0"):
                run("wg", "set", interface, "peer", key, "persistent-keepalive", interval)
