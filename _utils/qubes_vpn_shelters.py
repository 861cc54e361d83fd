# SPDX-License-Identifier: GPL-2.0-or-later
"""Who shelters somebody on the machine as it is, whatever the pillar calls it now."""

import qubes_vpn_guard
import qubes_vpn_plan
import qubes_vpn_undo

#: Features by which the files of a template know a VPN qube, and a resolver.
FLAG = f"service.{qubes_vpn_plan.FLAG}"
RESOLVER_FLAG = f"service.{qubes_vpn_plan.RESOLVER_FLAG}"


def promise(machine, data):
    """The :class:`qubes_vpn_guard.Guard` of *data*, and who was a shelter before this pillar.

    That are qubes with the flag of a VPN qube, and the shelters of runs that are not undone: such
    a qube's clients were never in clear for certain.
    """
    guard = qubes_vpn_guard.guard_of(data)
    named = {*guard.services, guard.uplink} - {*guard.shelters}
    before = _promised(machine.recorded())
    former = [name for name in named if name in before or is_flagged(machine, name)]
    return guard._replace(former=tuple(sorted(former)))


def is_flagged(machine, name, flag=FLAG):
    """Whether *name* is there and has the flag of a VPN qube, or another one."""
    if machine.klass(name) is None or not machine.has_feature(name, flag):
        return False
    return machine.feature(name, flag) == "1"


def unlisted(machine, guard, lists):
    """Tunnels without the firewall list that they are to have: nobody is safe behind one.

    lists: ``{tunnel: [rule...]}`` by the pillar, of those whose list is compared with it.
    """
    return [
        name
        for name in guard.shelters
        if name in guard.services
        and machine.klass(name)
        and (
            "action=accept" in machine.rules(name)
            or (name in lists and not machine.has_rules(name, lists[name]))
        )
    ]


def _promised(lines):
    """The shelters of the record's runs that are not undone."""
    undone = {number for line in lines for number in line.get("undone", ())}
    return {
        name
        for run in qubes_vpn_undo.runs(lines)
        if run.number not in undone
        for line in run.lines
        for name in line.get("guard", {}).get("shelters", ())
    }
