# SPDX-License-Identifier: GPL-2.0-or-later
"""The tunnel of this VPN qube up, down, or up with another profile: for dom0 (R67).

What `tunnel up` and `tunnel down` do, told in the form ``qubes_vpn_told.DONE``.
"""

import time

import qubes_vpn_connections
import qubes_vpn_killswitch
import qubes_vpn_mullvad
import qubes_vpn_mullvad_cli
import qubes_vpn_nm
import qubes_vpn_told
import qubes_vpn_tunnel
from qubes_vpn_connections import NotPinned
from qubes_vpn_killswitch import Unusable
from qubes_vpn_nft import Failed
from qubes_vpn_tunnel import Busy

#: Seconds for which the Mullvad app's connection is waited for.
_PATIENCE = 60


def do(name, argument):
    """Connect, Disconnect or Switch, the last with a profile's id as *argument*."""
    why, (_, former) = None, _now()
    try:
        if qubes_vpn_connections.CONF.exists():
            _by_networkmanager(name, argument)
        elif qubes_vpn_mullvad_cli.PROGRAM.exists() and name != "Switch":
            _by_app(name)
        else:
            why = "no-tunnel"
    except Busy:
        why = "busy"
    except NotPinned:
        why = "endpoint"
    except Unusable:
        why = "profile"
    except (Failed, qubes_vpn_mullvad_cli.Failed, OSError):
        is_open = qubes_vpn_killswitch.status()["state"] == "open"
        why = "no-answer" if is_open or name == "Disconnect" else "killswitch"
    state, profile = _now()
    told = {"done": why is None, "state": state, "profile": profile}
    return told | {"former": former, "why": why}


def _by_networkmanager(name, argument):
    if name == "Disconnect":
        qubes_vpn_tunnel.stop()
    elif name == "Connect":
        qubes_vpn_tunnel.up()
    else:
        known = {
            qubes_vpn_told.profile_id(each): each
            for each in qubes_vpn_connections.configured().profiles()
        }
        if argument not in known:
            raise Unusable("no such profile")
        qubes_vpn_tunnel.up(known[argument])


def _by_app(name):
    qubes_vpn_mullvad_cli.run("disconnect" if name == "Disconnect" else "connect")
    wanted = "Disconnected" if name == "Disconnect" else "Connected"
    until = time.monotonic() + _PATIENCE
    while qubes_vpn_mullvad.status() != wanted:
        if time.monotonic() > until:
            raise Failed("no connection")
        time.sleep(0.5)


def _now():
    """``(state, the id of the profile that is up)``."""
    try:
        if not qubes_vpn_connections.CONF.exists():
            return ("up" if qubes_vpn_mullvad.status() == "Connected" else "down"), None
        settings = qubes_vpn_connections.configured()
        states = qubes_vpn_tunnel.states(qubes_vpn_nm.active(), settings.interface)
    except (Failed, Unusable, qubes_vpn_mullvad_cli.Failed, OSError):
        return "unknown", None
    for word in ("up", "connecting"):
        for name, state in states.items():
            if state == word:
                return word, qubes_vpn_told.profile_id(name)
    return "down", None
