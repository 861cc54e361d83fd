# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0's last steps: they close the ways round a VPN that belong to the whole machine (R07).

Each looks at the machine as it is by then.  The last changes nothing, and says what is open.
"""

import qubes_vpn_client_dns
import qubes_vpn_guard
import qubes_vpn_policy
import qubes_vpn_ways
from qubes_vpn_moves import need, netvm
from qubes_vpn_named import no_dispvm_template
from qubes_vpn_qubesd import Refused, meant, shown

_PROXY = "qubes-updates-proxy"


def management(machine, changes, name, routed, guard, restart_clients="never"):
    """Takes the qubes that *name* says offline: those that dom0's management disposables come from.

    routed: names with a netvm in the pillar; refused when one of these is among them.
    """
    for each in sorted(managing(machine)):
        if each in routed:
            raise Refused(
                f"'{each}' is what dom0 manages qubes with: it gets the whole pillar and every "
                "file of the states, and has no netvm. Take it out of routes.qubes."
            )
        _move(machine, changes, each, "none", guard, restart_clients)


def managing(machine):
    """Names of the qubes that management disposables come from."""
    templates = {machine.named("management_dispvm")} | {
        machine.value(each, "management_dispvm")
        for each in machine.names()
        if not machine.inherits(each, "management_dispvm")
    }
    return templates - {None}


def disposables(machine, changes, name, routed, guard, restart_clients="never"):
    """Hangs templates of disposables that may be in clear on *name*; the others stay as they are.

    routed: names that the pillar routes by themselves.
    """
    promise = qubes_vpn_guard.guard_of(guard)
    ways = qubes_vpn_ways.Ways(machine, promise)
    own = {*routed, *promise.outside_vpn}
    in_clear = set(ways.clients_in_clear()) - own
    for each in ways.disposable_templates():
        if each in in_clear:
            _move(machine, changes, each, name, guard, restart_clients)


def _move(machine, changes, name, to, guard, restart_clients):
    moved = {}
    try:
        netvm(machine, moved, name, to, guard, restart_clients=restart_clients)
    finally:
        if "netvm" in moved:
            changes[f"{name}: netvm"] = moved.pop("netvm")
        changes.update(moved)


def served_by(machine, changes, name, qube, guard, outside=False):
    """Makes dom0 name *qube* (``none``: none) for *name*: updatevm, clockvm or default_dispvm.

    outside: whether it may be past every tunnel, by choice.
    """
    qube = meant(qube)
    if qube is not None:
        makes_disposables = name == "default_dispvm"
        _need_way(machine, qube, guard, offline=makes_disposables, outside=outside)
        if makes_disposables and machine.value(qube, "template_for_dispvms") is not True:
            raise Refused(no_dispvm_template(qube))
    if machine.named(name) != qube:
        machine.set_named(name, qube, changes)


def updates_policy(machine, changes, name, whonix_gateway, guard, outside=False):
    """Lets *name* (``none``: nobody) fetch templates' updates, and *whonix_gateway* Whonix'.

    By a qrexec policy file of ours.  Refused when a rule before it would have the last word, and
    when it would override a deny or the user's own rule for one template.
    outside: whether it may be past every tunnel, by choice.
    """
    proxy = meant(name)
    if proxy is not None:
        _need_way(machine, proxy, guard, offline=False, outside=outside)
        if not machine.announces(proxy, f"supported-service.{_PROXY}"):
            raise Refused(
                f"{proxy} has no service {_PROXY}: templates would get no updates. Install "
                "qubes-core-agent-networking in its template, and restart both."
            )
    text = qubes_vpn_policy.text(proxy, whonix_gateway)
    current = machine.policy_text()
    ways = qubes_vpn_ways.Ways(machine, qubes_vpn_guard.guard_of(guard))
    for template, answer in ways.update_servers_but(proxy, whonix_gateway, text):
        raise Refused(
            f"{answer.where} goes before the formula's policy: {template} would be updated by "
            f"{shown(answer.qube)}. Remove that rule, or rename its file so that it comes after "
            f"{qubes_vpn_policy.FILE}."
        )
    for template, was, will in ways.not_to_override(text):
        raise Refused(
            f"{was.where} says that {template} is updated by {was.shown()}, and the formula's "
            f"policy, which goes before, would say {will.shown()}. Remove that rule, or set "
            "updates.templates to keep and write the policy yourself."
        )
    if current != text:
        if where := machine.added_to_policy():
            raise Refused(
                f"{where} is not the formula's, and its file is written anew: the line would be "
                "lost. Move it to a file of your own (30-user.policy, for one)."
            )
        old = _served(ways.changed(text)) or ", ".join(sorted(ways.update_servers())) or None
        machine.set_policy(text)
        changes["templates' updates by"] = {"old": shown(old), "new": name}


def services_policy(machine, changes, name):
    """Only dom0 calls the services of VPN and resolver qubes.  *name*: of the step."""
    machine.set_services_policy(qubes_vpn_policy.services_text(), changes)


def ways_round(machine, changes, name, guard, roles, outside=None):
    """Changes nothing.  Returns what is open past the VPN, copies of logins, and who has no DNS.

    roles: of the service qubes, by name.  outside: see :func:`qubes_vpn_ways.still_open`.
    """
    promise = qubes_vpn_guard.guard_of(guard)
    resolvers = [name for name, role in roles.items() if role == "resolver"]
    found = qubes_vpn_ways.still_open(machine, promise, resolvers, outside)
    told = ["Nothing that was looked at goes past the VPN."]
    if found:
        told = ["Past the VPN, as the machine is now:", *(f"- {each}" for each in found)]
    told += qubes_vpn_ways.copies(machine, promise)
    return "\n".join([*told, *qubes_vpn_client_dns.lacking(machine, roles)])


def _served(changed):
    """Who served whom so far, as text."""
    by = {}
    for template, was, _ in changed:
        by.setdefault(was.shown(), []).append(template)
    return ", ".join(f"{who} (for {', '.join(sorted(by[who]))})" for who in sorted(by))


def _need_way(machine, name, guard, offline, outside):
    """Refuses a qube that may go out in clear, and one that goes nowhere unless *offline*.

    Where *offline* is possible, outside_vpn is no excuse; *outside* is one for what is asked here.
    """
    need(machine, name)
    promise = qubes_vpn_guard.guard_of(guard)
    ways = qubes_vpn_ways.Ways(machine, promise)
    chosen = not offline and (outside or name in promise.outside_vpn)
    if ways.exposed(name) and not chosen:
        way = " -> ".join(qubes_vpn_guard.path(name, ways.wiring))
        raise Refused(
            f"'{name}' may go out in clear, by {way}. Name a qube behind a tunnel, or "
            "route this one there."
        )
    if not offline and not ways.online(name):
        raise Refused(f"'{name}' has no netvm: nothing could be fetched through it. Name another.")
