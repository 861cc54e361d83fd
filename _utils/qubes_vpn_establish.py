# SPDX-License-Identifier: GPL-2.0-or-later
"""The tunnel of a VPN qube as the pillar has it: what would change, and changing it."""

from typing import NamedTuple

import qubes_vpn_configure
import qubes_vpn_connections
import qubes_vpn_killswitch
import qubes_vpn_nm
import qubes_vpn_tunnel
from qubes_vpn_nft import Failed
from qubes_vpn_problem import os_words

_JOURNAL = "journalctl -b -u NetworkManager"


class Outcome(NamedTuple):
    """changes: what changed, or would.  problems: why it is not as it should be.  told: notes."""

    changes: dict
    problems: tuple = ()
    told: tuple = ()


def establish(settings, endpoints, dry, here=True):
    """The tunnel is up with the active profile, and the others are ready; an :class:`Outcome`.

    settings: :class:`qubes_vpn_connections.Settings`.  endpoints: list of the pillar's texts.
    dry: nothing is changed; the outcome is what would be.
    here: False in what a disposable is made from, where the profiles are only read: it has no
    netvm, and of what is done here the disposable gets what is in /rw.
    A profile that cannot be used has no connection; one that it had is taken down.
    """
    if problems := [*qubes_vpn_tunnel.lacking(here), *([] if dry else _open())]:
        missing = qubes_vpn_connections.of_profiles(settings, endpoints).problems.values()
        return Outcome({}, (*problems, *missing))
    connections = qubes_vpn_connections.of_profiles(settings, endpoints)
    changes = _changes(settings, connections, here)
    told = tuple(
        f"{profile}:{finding.line}: {finding.key}: {finding.what}"
        for profile, connection in connections.made.items()
        for finding in connection.findings
    )
    problems = tuple(connections.problems.values())
    if not dry and changes:
        failed = ()
        try:
            text = qubes_vpn_connections.write_settings(settings).encode()
            qubes_vpn_configure.replace(qubes_vpn_connections.CONF, text, 0o644)
            usable = settings.profile if settings.profile in connections.made else None
            if here:
                qubes_vpn_tunnel.make(settings, connections.made, usable)
        except Failed as error:
            failed = (f"{error}. What NetworkManager says: {_JOURNAL}",)
        except OSError as error:
            failed = (os_words(error),)
        after = _changes(settings, connections, here)
        changes = {key: change for key, change in changes.items() if key not in after}
        if after and not failed:
            failed = (f"not as it should be: {_in_words(after)}. See {_JOURNAL}",)
        problems += failed
    return Outcome(changes, problems, told)


def _in_words(changes):
    """What *changes* are still to be made."""
    tunnel = changes.get("tunnel")
    is_so = [f"the tunnel is {tunnel['old']} and not {tunnel['new']}"] if tunnel else []
    return ", ".join([*is_so, *(key for key in changes if key != "tunnel")])


def _open():
    """Why the killswitch does not let a tunnel be made."""
    report = qubes_vpn_killswitch.status()
    if report["state"] == "open" and not report["problems"]:
        return []
    return [f"the killswitch is {report['state']}: no tunnel without it", *report["problems"]]


def _changes(settings, connections, here):
    path, text = qubes_vpn_connections.CONF, qubes_vpn_connections.write_settings(settings)
    changes = {}
    try:
        old = qubes_vpn_killswitch.read(path, missing=b"").decode("ascii", "replace")
    except qubes_vpn_killswitch.Unusable as error:
        old = str(error)
    if old != text:
        lines = [line if line.startswith(_KEYS) else "(not shown)" for line in old.splitlines()]
        new = text.splitlines()
        changes[str(path)] = {
            "old": [line for line in lines if line not in new],
            "new": [line for line in new if line not in lines],
        }
    if not here:
        return changes
    differing = qubes_vpn_connections.differences(connections.made)
    if differing:
        changes["connections"] = differing
    before, after = (
        _up(settings.interface),
        settings.profile if settings.profile in connections.made else "down",
    )
    if before != after or (before in differing and before != "down"):
        changes["tunnel"] = {"old": before, "new": after}
    return changes


#: What lines of ours begin with: whatever else is in the file may be a secret.
_KEYS = ("kind = ", "interface = ", "profile = ", "further = ")


def _up(interface):
    """The profile whose connection is up, or ``down``; with its state when that is another."""
    try:
        states = qubes_vpn_tunnel.states(qubes_vpn_nm.active(), interface)
    except Failed:
        return "unknown"
    told = {"up": "{}", "connecting": "{} (connecting)"}
    found = [told[state].format(name) for name, state in states.items() if state in told]
    return ", ".join(found) or "down"
