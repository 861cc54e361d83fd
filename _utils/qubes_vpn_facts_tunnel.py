# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts of a VPN qube: its killswitch, its tunnel, and where its clients' DNS goes."""

import os
import re
import time
from pathlib import Path

import qubes_vpn_connections
import qubes_vpn_follow
import qubes_vpn_handshake
import qubes_vpn_killswitch
import qubes_vpn_mullvad
import qubes_vpn_mullvad_account
import qubes_vpn_mullvad_cli
import qubes_vpn_mullvad_settings
import qubes_vpn_nft
import qubes_vpn_nm
import qubes_vpn_told
import qubes_vpn_tunnel
from qubes_vpn_killswitch import IN_TEMPLATE, Unusable
from qubes_vpn_nft import Failed

_STATISTICS = "/sys/class/net/{}/statistics/{}_bytes"
_DAEMON = Path("/etc/systemd/system/multi-user.target.wants/mullvad-daemon.service")
#: The app's words, and ours.
_APP = {"Connected": "up", "Connecting": "connecting", "Disconnecting": "down"}
_END = re.compile(r"\b(dst|dport)=(\S+)")
#: Seconds for what the app may have to ask its makers.
_ACCOUNT = 5


def facts():
    """``killswitch``, ``tunnel``, ``mullvad`` and ``dns`` of ``qubes_vpn_told.STATUS``."""
    killswitch = qubes_vpn_killswitch.status()
    app = _app() if qubes_vpn_mullvad_cli.PROGRAM.exists() and not _has_settings() else None
    return {
        "killswitch": _killswitch(killswitch),
        "tunnel": _tunnel(killswitch, app),
        "mullvad": app,
        "dns": _dns(),
        "resolver": None,
    }


def _killswitch(report):
    return {
        "state": report["state"],
        "in_template": report["installed"] in (None, str(IN_TEMPLATE)),
        "problems": len(report["problems"]),
        "drift": len(report["drift"]),
        "endpoints": report.get("endpoints"),
        "log": report.get("log"),
        "counters": report.get("counters"),
    }


def _has_settings():
    return qubes_vpn_connections.CONF.exists()


def _tunnel(killswitch, app):
    interface = next(iter(killswitch.get("interfaces", ())), None)
    found = {"kind": "other", "state": "down", "faults": [], "profiles": []}
    if app:
        found |= {"kind": "mullvad", "state": _app_state()}
    elif _has_settings():
        found |= _of_networkmanager()
        interface = found.pop("interface") or interface
    elif interface and qubes_vpn_nft.is_tunnel(interface) and qubes_vpn_nft.is_up(interface):
        found["state"] = "up"
    there = interface is not None and qubes_vpn_nft.exists(interface)
    if found["state"] == "up" and not (there and qubes_vpn_nft.is_tunnel(interface)):
        found["faults"].append("not-a-tunnel")
    handshake, server = _peer(interface) if there else (None, None)
    if found["kind"] == "openvpn" and found["state"] == "up":
        server = _openvpn_server()
    return found | {
        "interface": interface,
        "handshake": handshake,
        "server": server,
        "sent": _bytes(interface, "tx"),
        "received": _bytes(interface, "rx"),
    }


def _of_networkmanager():
    """What of the tunnel is NetworkManager's to say."""
    found = {"interface": None, "state": "down", "profiles": []}
    faults = ["files-missing"] if qubes_vpn_tunnel.lacking() else []
    try:
        settings = qubes_vpn_connections.configured()
        made = qubes_vpn_connections.of_profiles(settings, qubes_vpn_connections.pinned())
    except Unusable:
        return found | {"kind": "other", "faults": [*faults, "bad-settings"]}
    found |= {"kind": settings.kind, "interface": settings.interface}
    try:
        states = qubes_vpn_tunnel.states(qubes_vpn_nm.active(), settings.interface)
    except Failed:
        states, found["state"] = {}, "unknown"
    for word in ("connecting", "up"):
        if word in states.values():
            found["state"] = word
    found["profiles"] = [
        {"id": qubes_vpn_told.profile_id(name), "state": states.get(name, "down")}
        for name in settings.profiles()[:200]
    ]
    if settings.profile in made.problems:
        there = os.path.lexists(qubes_vpn_connections.CREDENTIALS / settings.profile)
        faults.append("profile-unusable" if there else "profile-missing")
    if qubes_vpn_connections.differences(made.made):
        faults.append("keyfile-differs")
    return found | {"faults": faults}


def _peer(interface):
    """``(seconds since the last handshake, ADDRESS:PORT)`` of a WireGuard tunnel."""
    try:
        age, server = qubes_vpn_handshake.last(interface), qubes_vpn_handshake.server(interface)
    except Failed:
        return None, None  # not WireGuard
    return (None if age is None else max(0, int(time.time() - age))), server


def _openvpn_server():
    """``ADDRESS:PORT`` with which OpenVPN talks just now, IPv6 in brackets; None: not known.

    NetworkManager does not tell (seen with 1.52): it has what the profile says, which may be
    several servers.  Nor does OpenVPN's own socket, which is not connected.  So it is the flow of
    that socket that was answered last, as conntrack has it.
    """
    found = []
    try:
        for protocol in ("udp", "tcp"):
            sockets = qubes_vpn_nft.run("ss", "-Hnap", f"--{protocol}").splitlines()
            own = [line.split()[3] for line in sockets if '(("openvpn",' in line]
            for family in ("ipv4", "ipv6"):
                for port in {address.rpartition(":")[2] for address in own}:
                    which = ("-f", family, "-p", protocol, "--orig-port-src", port)
                    flows = qubes_vpn_nft.run("conntrack", "-L", *which).splitlines()
                    found += [flow for flow in flows if "[UNREPLIED]" not in flow]
        return max(map(_flow, found))[1] if found else None
    except (Failed, LookupError, ValueError):
        return None


def _flow(line):
    """``(seconds that it has left, ADDRESS:PORT where it goes)`` of a line of conntrack's."""
    ends = {}
    for key, value in _END.findall(line):
        ends.setdefault(key, value)  # the way back comes later
    address, port = ends["dst"], ends["dport"]
    return int(line.split()[2]), f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _bytes(interface, way):
    try:
        return int(Path(_STATISTICS.format(interface, way)).read_text())
    except (OSError, ValueError):
        return 0


def _app():
    """What the Mullvad app says of itself."""
    found = {
        "answers": False,
        "enabled": os.path.lexists(_DAEMON),
        "account": None,
        "lan": None,
        "auto_connect": None,
        "lockdown": None,
    }
    try:
        qubes_vpn_mullvad.status()
        found["answers"] = True
        told = qubes_vpn_mullvad_settings.said(("lan", "auto", "lockdown"))
        for name in ("lan", "auto_connect", "lockdown"):
            value = qubes_vpn_mullvad_settings.SETTINGS[name].value(told)
            found[name] = value if isinstance(value, bool) else None
        found["account"] = qubes_vpn_mullvad_account.state(_ACCOUNT)
    except qubes_vpn_mullvad_cli.Failed:
        pass  # what it has not said is not known
    return found


def _app_state():
    try:
        return _APP.get(qubes_vpn_mullvad.status(), "down")
    except qubes_vpn_mullvad_cli.Failed:
        return "unknown"


def _dns():
    report = qubes_vpn_follow.status()
    return {
        "open": report["state"] == "open",
        "resolvers": report["resolvers"][:8],
        "named": report["named"][:32],
        "follows": report["follows"],
    }
