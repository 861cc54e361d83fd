# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts and checks about a machine's VPN: the ``qubes_vpn`` execution module.

Works on plain pillar data, so it runs wherever Salt renders an SLS.  Under salt-ssh a function
that an SLS calls has no pillar of its own (``__pillar__`` is empty there): hand the pillar in.
"""

import qubes_vpn_check
import qubes_vpn_model
import qubes_vpn_plan

__virtualname__ = "qubes_vpn"


def __virtual__():
    return __virtualname__


def check(pillar=None):
    """What is wrong with *pillar* (default: this minion's ``qubes_vpn`` pillar).

    Returns a list of texts, empty when all is well.

    CLI Example::

        qubesctl qubes_vpn.check
    """
    return [problem.text() for problem in qubes_vpn_check.check(_document(pillar))]


def plan(pillar=None, part="network"):
    """The ordered steps that dom0 takes for *pillar*, or why there are none.

    part: ``network`` (``qubes.network.sys-vpn``) or ``layout`` (``qubes.layout``).
    Returns ``{"problems": [text...], "steps": [{"id", "state", "args", "why"}...]}``; there are
    never steps when there are problems.

    CLI Example::

        qubesctl qubes_vpn.plan
    """
    model, problems = qubes_vpn_model.read(_document(pillar))
    if problems:
        return {"problems": [problem.text() for problem in problems], "steps": []}
    steps = {"network": qubes_vpn_plan.plan, "layout": qubes_vpn_plan.layout}[part](model)
    return {"problems": [], "steps": [step._asdict() for step in steps]}


def _document(pillar):
    return __pillar__.get("qubes_vpn") if pillar is None else pillar
