# SPDX-License-Identifier: GPL-2.0-or-later
"""The audit of a machine: every way round its VPN that can be seen from dom0 (R93).

``audit(inventory, model)`` is a pure function of an inventory (:mod:`qubes_vpn_inventory`) and, if
there is one, the checked pillar.  Rules are data, in the ``qubes_vpn_audit_*`` modules.
"""

import qubes_vpn_audit_apart
import qubes_vpn_audit_chain
import qubes_vpn_audit_layout
import qubes_vpn_audit_packets
import qubes_vpn_audit_vpn
import qubes_vpn_audit_whole
import qubes_vpn_finding
from qubes_vpn_audit_flow import Flow
from qubes_vpn_audit_view import View
from qubes_vpn_finding import Finding, Rule

#: About the pillar itself; looked at when all others are done.
UNUSED = Rule(
    "A901",
    "low",
    "An exception that matches nothing",
    "It may have been for something else, and would hide what comes next.",
    "Take it out of the pillar, audit.exceptions, or write the rule and the qube as they are told.",
    lambda _: (),
)
RULES = (
    *qubes_vpn_audit_packets.RULES,
    *qubes_vpn_audit_vpn.RULES,
    *qubes_vpn_audit_whole.RULES,
    *qubes_vpn_audit_apart.RULES,
    *qubes_vpn_audit_chain.RULES,
    *qubes_vpn_audit_layout.RULES,
    UNUSED,
)


def audit(inventory, model=None):
    """The :class:`qubes_vpn_finding.Report` of a machine.

    model: a :class:`qubes_vpn_model.Model`, whose exceptions are applied.  Without one, what the
    qubes' own services say is a VPN qube counts as one.
    """
    report = qubes_vpn_finding.look(RULES, Flow(View(inventory, model)))
    exceptions = {(each.rule, each.qube): each.reason for each in model.exceptions} if model else {}
    kept = [each for each in report.findings if (each.rule.id, each.qube) not in exceptions]
    excepted = [
        (each, exceptions[each.rule.id, each.qube])
        for each in report.findings
        if (each.rule.id, each.qube) in exceptions
    ]
    unknown = {rule.id for rule, _ in report.unknown}
    used = {(each.rule.id, each.qube) for each, _ in excepted}
    kept += [
        Finding(UNUSED, qube, f"{rule} finds nothing there")
        for rule, qube in exceptions
        if (rule, qube) not in used and rule not in unknown
    ]
    kept.sort(key=qubes_vpn_finding.place)
    return report._replace(findings=tuple(kept), excepted=tuple(excepted))
