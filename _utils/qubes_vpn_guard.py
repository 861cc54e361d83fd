# SPDX-License-Identifier: GPL-2.0-or-later
"""Would this change of netvms let anybody out in clear who was not?  Pure functions.

The plan's order opens nothing; this is the second lock: dom0 asks it before every change of a
netvm, with the machine as it really is, so that no order and no interrupted run can get past it.
"""

from typing import NamedTuple


class Guard(NamedTuple):
    """What the pillar promises.

    shelters: qubes whose clients are not in clear (tunnels, and Whonix' gateway for Tor).
    services: every service qube; one without a netvm is not wired yet, so its clients are offline.
    outside_vpn: clients that the user wants in clear.
    """

    shelters: tuple
    services: tuple
    outside_vpn: tuple


def opened(before, after, guard):
    """Names of qubes that are in clear *after* and were not *before*.

    *before* and *after* map every qube of the machine to its netvm's name or None.  A qube that had
    a netvm and loses it is no uplink: its clients are offline.
    """
    cut = [name for name in after if after[name] is None and before.get(name) is not None]
    wired = guard._replace(services=(*guard.services, *cut))
    return sorted(
        name
        for name in after
        if name not in guard.services
        and name not in guard.outside_vpn
        and in_clear(name, after, wired)
        and not in_clear(name, before, guard)
    )


def in_clear(name, wiring, guard):
    """Whether *name* has a way out that passes no shelter.

    A way that ends at a qube which the pillar does not wire counts as a way out: it may be an
    uplink that the pillar does not know.
    """
    seen = set()
    here = wiring.get(name)
    if here is None or name in guard.shelters:
        return False
    while here is not None:
        if here in guard.shelters or here in seen:
            return False
        seen.add(here)
        last, here = here, wiring.get(here)
    return last not in guard.services


def path(name, wiring):
    """Names from *name* upstream, without an end only where there is a loop."""
    names = []
    while name is not None and name not in names:
        names.append(name)
        name = wiring.get(name)
    return names
