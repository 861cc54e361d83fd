# SPDX-License-Identifier: GPL-2.0-or-later
"""Who but dom0 may call the services of a VPN or resolver qube, by dom0's qrexec policy (R67).

The formula's own file denies it to all, and whatever sorts before it has the word.  Taken for open
is what is not denied to everybody whom the rule is for.
"""

from pathlib import Path

import qubes_vpn_policy
import qubes_vpn_told

#: Sources and targets that are for everybody; dom0's own calls ask no policy.
_EVERYBODY = ("*", "@anyvm")
_DOM0 = ("@adminvm", "dom0")


def let_in(lines, name, klass, tags):
    """``FILE: RULE`` of each rule that lets a qube call them in the qube *name*, in order.

    lines: of :meth:`qubes_vpn_policy.Policy.lines`.  Raises ``qubes_vpn_policy.NotPolicy``.
    """
    rules = qubes_vpn_policy.of_lines(lines, qubes_vpn_policy.about_ours)
    found = {}
    for service in qubes_vpn_told.SERVICES:
        denied = []
        for rule in rules:
            if rule.service not in ("*", f"{qubes_vpn_told.PREFIX}{service}"):
                continue
            if rule.action == "deny":
                denied.append(rule)
            elif _reaches(rule, name, klass, tags) and not any(
                _covers(each, rule, name, klass, tags) for each in denied
            ):
                file = Path(rule.where.rpartition(":")[0]).name
                found[f"{file}: {rule.text()}"] = None
    return list(found)


def _reaches(rule, *called):
    """Whether some call by that *rule* may come to *called*: a name, a class, tags."""
    if rule.source in _DOM0:
        return False
    asks = rule.action == "ask"  # then the user chooses, and what is named is what is offered first
    return rule.redirect == called[0] or ((asks or not rule.redirect) and _is_to(rule, *called))


def _is_to(rule, *called):
    return rule._replace(source=rule.target).is_for(*called)


def _covers(deny, rule, *called):
    """Whether *deny* stops all calls of *rule* to *called* that come after it."""
    if deny.argument != "*" or deny.source not in (*_EVERYBODY, rule.source):
        return False
    if deny.target in ("*", rule.target) or (deny.target == "@anyvm" and rule.target not in _DOM0):
        return True
    return not rule.redirect and _is_to(deny, *called)
