# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0 has the same service of several qubes tell something."""

import qubes_vpn_told
from qubes_vpn_ask import NoAnswer, ask
from qubes_vpn_told import NotUnderstood


def collect(app, names, service, read, *, most, seconds):
    """``({qube: answer}, {qube: why it has none})``.

    app, most, seconds: see :func:`qubes_vpn_ask.ask`.  read: a function from the answer's bytes to
    what is made of them; may raise ``qubes_vpn_told.NotUnderstood``.
    """
    told, silent = {}, {}
    for name in names:
        try:
            data = ask(app, name, qubes_vpn_told.PREFIX + service, most=most, seconds=seconds)
            told[name] = read(data)
        except NoAnswer as why:
            silent[name] = str(why).removeprefix(f"{name}: ")
        except NotUnderstood as why:
            silent[name] = f"{why}. Is the formula in dom0 of the same version?"
    return told, silent
