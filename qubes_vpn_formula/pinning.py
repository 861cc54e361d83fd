# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a profile still fits the endpoints that a pillar has for it (R35)."""

from pathlib import Path

import qubes_vpn_keyfile
import qubes_vpn_profile
from qubes_vpn_error import UserError
from qubes_vpn_formula import pillarfile, resolve
from qubes_vpn_pins import Pins


def errors(pillar, profile, ask):
    """What is wrong with the file *profile* for its tunnel in the file *pillar*.

    A list of :class:`UserError`; raises one when no tunnel has it.  ask: the resolver is asked for
    the addresses that the profile's host names have now.
    """
    name = Path(profile).name
    tunnels = [
        tunnel
        for tunnel in pillarfile.read(pillar).model.services.values()
        if name in (tunnel.profile, *tunnel.profiles)
    ]
    if not tunnels:
        fix = f"Write 'profile: {name}' under its tunnel, or name the right file."
        raise UserError(f"no tunnel has the profile {name}", fix, file=pillar)
    found = []
    for tunnel in tunnels:
        endpoints = [endpoint.text for endpoint in tunnel.endpoints]
        found += qubes_vpn_keyfile.refusals(profile, endpoints)
        found += _moved(profile, endpoints) if ask else []
    return found


def _moved(path, endpoints):
    """The addresses that a name of the profile has now and that are not pinned."""
    profile, pins, found = qubes_vpn_profile.read(path), Pins(endpoints, path), []
    answers = {name: resolve.ask(name) for name in {host.name for host in profile.hosts}}
    for server in profile.pinned(answers).endpoints if answers else ():
        name, _, line = server.origin.rpartition(", line ")
        try:
            if name:
                pins.check(server.text, int(line), name)
        except UserError as error:
            found.append(error)
    return found
