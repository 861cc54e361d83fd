# SPDX-License-Identifier: GPL-2.0-or-later
"""Networks of many shapes and sizes, as ``qubes_vpn_network`` sees them; no machine behind them."""

from hypothesis import strategies as st

from qubes_vpn_network import (
    CLEAR,
    CLIENT,
    FIREWALL,
    OFFLINE,
    RESOLVER,
    SHELTERED,
    TOR,
    TUNNEL,
    UPLINK,
    Qube,
)

LABELS = ("red", "orange", "yellow", "green", "gray", "blue", "purple", "black")
NAMES = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_.-]{0,30}", fullmatch=True)


@st.composite
def networks(draw, least=1, most=60):
    """A forest of so many qubes: uplinks, and service qubes and clients on anybody or nobody."""
    names = draw(st.lists(NAMES, min_size=least, max_size=most, unique_by=str.lower))
    made = {}
    for name in names:
        carriers = [each for each in made.values() if each.role != CLIENT]
        role = draw(st.sampled_from([UPLINK, TUNNEL, TOR, RESOLVER, FIREWALL, *[CLIENT] * 6]))
        netvm = draw(st.sampled_from([None, *carriers])) if role != UPLINK else None
        made[name] = _qube(name, role, netvm, made, draw(st.sampled_from(LABELS)))
    return list(made.values())


def _qube(name, role, netvm, made, label):
    """What follows from whom it hangs on, told here from upstream to downstream."""
    exit_, way = None, UPLINK if role == UPLINK else OFFLINE
    if netvm:
        above = netvm
        way = CLEAR
        while above and way == CLEAR:
            if above.role in (TUNNEL, TOR):
                way, exit_ = SHELTERED, above.name
            above = made.get(above.netvm)
        if role in (TUNNEL, TOR):
            way, exit_ = SHELTERED, name
    running = len(name) % 2 == 0
    limited = len(name) % 3 == 0 if role == TUNNEL else None
    on = netvm and netvm.name
    chosen = way == CLEAR and label == "red"
    return Qube(name, "AppVM", label, on, None, running, role, way, exit_, chosen, limited)
