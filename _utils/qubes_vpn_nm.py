# SPDX-License-Identifier: GPL-2.0-or-later
"""NetworkManager of the qube that this runs in, by nmcli: what it says, and what it is told.

Only connections of ours are ever named to it.  Nothing here takes or shows a secret.
"""

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

import qubes_vpn_nft
from qubes_vpn_nft import Failed

#: Seconds until a connection counts as failed.  NetworkManager gives a VPN 60 (its timeout).
_PATIENCE = 75
#: Types of connection that lead nowhere by themselves.
_NO_UPLINK = ("vpn", "wireguard", "tun", "loopback", "bridge", "dummy")
_FIELDS = "--fields=UUID,TYPE,STATE,ACTIVE-PATH,NAME"
_SHOWN = ("--terse", _FIELDS, "connection", "show", "--active")


class Active(NamedTuple):
    """An active connection.  state: ``activating``, ``activated`` or ``deactivating``.

    path: of its D-Bus object; a connection that is brought up again has another one.
    name: its id, in nmcli's words, which put a backslash before some characters.
    """

    uuid: str
    type: str
    state: str
    path: str
    name: str = ""

    def is_uplink(self):
        """Whether a tunnel could go out by it.

        A client's link is none.  NetworkManager may call it activated, under its device's name
        (seen with 1.52: "connected (externally)").
        """
        is_client = self.name.startswith("vif")
        return self.state == "activated" and self.type not in _NO_UPLINK and not is_client


def active():
    """Every :class:`Active` one; raises :class:`Failed` when NetworkManager does not answer."""
    try:
        said = _nmcli(*_SHOWN)
    except Failed as error:
        raise Failed(f"NetworkManager does not answer ({error})") from None
    return [Active(*line.split(":", 4)) for line in said.splitlines() if line.count(":") >= 4]


def resolvers(uuid):
    """Addresses of the resolvers that an active connection came with, in its order, as texts."""
    fields = ("--terse", "--escape=no", "--fields=IP4.DNS,IP6.DNS")
    said = _nmcli(*fields, "connection", "show", "uuid", uuid)  # IP4.DNS[1]:192.0.2.1
    return [line.partition(":")[2] for line in said.splitlines() if ".DNS[" in line]


def load(paths):
    """Has the keyfiles *paths* read; one that is gone is forgotten."""
    for path in paths:
        _nmcli("connection", "load", str(path))


def up(uuid, wait=True):
    """Brings a connection up; raises :class:`Failed`.  wait: until it is up or has failed."""
    _nmcli(f"--wait={_PATIENCE - 15 if wait else 0}", "connection", "up", "uuid", uuid)


def down(uuid):
    """Takes a connection down, and looks whether it is; one that is not up is no error."""
    told = "still up"  # nmcli ends with 0 also when NetworkManager refuses
    try:
        _nmcli("--wait=10", "connection", "down", "uuid", uuid)
    except Failed as error:
        told = str(error)
    until = time.monotonic() + 5
    while any(uuid == found.uuid for found in active()):
        if time.monotonic() > until:
            raise Failed(f"the connection {uuid} could not be taken down: {told}")
        time.sleep(0.1)


def end_abandoned(interface):
    """Ends an openvpn that has the tunnel *interface* although NetworkManager has lost it.

    When NetworkManager's helper for OpenVPN is killed, openvpn lives on with the interface, and
    every other one fails ("Device or resource busy", seen with NetworkManager 1.52).
    """
    for process in Path("/proc").glob("[0-9]*"):
        try:
            # Any process may give itself any bytes as a name.
            if (process / "comm").read_bytes() == b"openvpn\n" and _has(process, interface):
                os.kill(int(process.name), signal.SIGTERM)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended


def _has(process, interface):
    said = b"iff:\t" + os.fsencode(interface)
    return any(said in path.read_bytes().splitlines() for path in (process / "fdinfo").iterdir())


def _nmcli(*words):
    return qubes_vpn_nft.run("nmcli", "--colors=no", *words, patience=_PATIENCE)
