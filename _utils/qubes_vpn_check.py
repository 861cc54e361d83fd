# SPDX-License-Identifier: GPL-2.0-or-later
"""The question that everybody asks first: what is wrong with this pillar?"""

import qubes_vpn_model


def check(document):
    """Every :class:`qubes_vpn_problem.Problem` of *document*, the value under ``qubes_vpn``."""
    return qubes_vpn_model.read(document)[1]
