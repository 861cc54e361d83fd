# SPDX-License-Identifier: GPL-2.0-or-later
"""What the audit and the doctor look for, each rule with its reason and its fix."""

from html import escape

import qubes_vpn_audit
import qubes_vpn_doctor
from reference.words import plain


def audit(_before):
    """All rules of the audit, by number."""
    return _told(qubes_vpn_audit.RULES)


def doctor(_before):
    """All checks of the doctor, by number."""
    return _told(qubes_vpn_doctor.RULES)


def _told(rules):
    return "\n\n".join(
        f"### {rule.id}: {plain(rule.title)}\n\n"
        f"**{rule.severity.capitalize()}.** {plain(rule.reason)}\n\n{_fix(rule.fix)}"
        for rule in sorted(rules, key=lambda rule: rule.id)
    )


def _fix(fix):
    return f"What to do: {plain(escape(fix, quote=False))}"
