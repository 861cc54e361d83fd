# SPDX-License-Identifier: GPL-2.0-or-later
"""What is wrong when it does not work, with its fix: checks over a machine and its qubes (R68).

Rules as :mod:`qubes_vpn_finding` has them.  Those of ``D1..`` look at what dom0 knows, the others
at what running VPN and resolver qubes have told of themselves.  Every row of the troubleshooting
tables that the formula's guides have is one of them: tests/core/test_doctor.py has the list.
"""

from typing import NamedTuple

import qubes_vpn_doctor_dom0
import qubes_vpn_doctor_qubes
import qubes_vpn_finding

RULES = (*qubes_vpn_doctor_dom0.RULES, *qubes_vpn_doctor_qubes.RULES)


class Subject(NamedTuple):
    """What is looked at.

    model: the pillar's :class:`qubes_vpn_model.Model`.  inventory: of :mod:`qubes_vpn_inventory`.
    told: ``{name: qubes_vpn_told.STATUS}`` of the VPN and resolver qubes that answered.
    silent: ``{name: sentence}`` of those that run and gave no answer that can be used.
    stale: names of service qubes that run with an older version of what they are made from.
    """

    model: object
    inventory: dict
    told: dict
    silent: dict
    stale: frozenset = frozenset()


def examine(subject):
    """The :class:`qubes_vpn_finding.Report` of a :class:`Subject`."""
    return qubes_vpn_finding.look(RULES, subject)
