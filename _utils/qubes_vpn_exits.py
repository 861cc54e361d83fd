# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0 asks VPN qubes as whom the world sees them (R65)."""

import qubes_vpn_tests_pillar
from qubes_vpn_ask import NoAnswer
from qubes_vpn_probing import Probing

_NONE = "no answer"


def exits(app, model, running):
    """``{tunnel: text}`` of those that run: the addresses that the check of the pillar sees.

    app: see :func:`qubes_vpn_ask.ask`.  running: a function of a name.  Nobody is started, and
    nobody past a tunnel is asked.
    """
    probing = Probing(app)
    return {name: _seen(probing, model, name) for name in model.tunnels() if running(name)}


def _seen(probing, model, name):
    check = qubes_vpn_tests_pillar.check(model, name)
    order = {word: check[word] for word in ("url", "address", "provider")}
    try:
        found = probing.exits(name, order).values()
    except NoAnswer:
        return _NONE
    return ", ".join(str(one.address) for one in found if one.address) or _NONE
