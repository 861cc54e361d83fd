# SPDX-License-Identifier: GPL-2.0-or-later
"""What was changed on a machine by hand, as edits of its pillar: or why it cannot be one.

A difference is between the pillar's steps and the machine.  Its edits are tried on the pillar's
text, one difference after the other; what would make a wrong pillar is not accepted.
"""

import contextlib
from typing import NamedTuple

import qubes_vpn_layout
import qubes_vpn_net
import qubes_vpn_pillaredit
from qubes_vpn_formula import pillarfile
from qubes_vpn_formula.errors import UserError

_TOP = "qubes_vpn"
#: Settings of a service qube that its pillar can say.
_SETTINGS = ("template", "label", "memory", "maxmem", "autostart")
_DROP = "action=drop"


class Difference(NamedTuple):
    """One difference of the qube *name* (``default_netvm``: of dom0's).

    what: how it is on the machine.  edits: ``(function of the edit, path, value...)``, which
    accept it; or none, and *why* it cannot be accepted, with what to do instead.
    """

    name: str
    what: str
    edits: tuple = ()
    why: str | None = None


def differences(model, machine, steps, outside):
    """Every :class:`Difference` of a machine, in the steps' order.

    machine: a ``qubes_vpn_machine.Machine``.  outside: whether qubes may be put into outside_vpn.
    """
    seen = _Seen(model, machine, outside)
    found, missing, others = [], set(), []
    for step in steps:
        name, look = step.args["name"], getattr(seen, step.state, None)
        if look is None:
            others.append(step)
        elif step.state == "default_netvm" or machine.klass(name) is not None:
            found += look(**step.args)
        elif not step.args.get("optional") and name not in missing:
            missing.add(name)
            found.append(_missing(name, step))
    # These last: a dry machine is another one after each.
    return found + [each for step in others for each in _by_hand(machine, step)]


def _by_hand(machine, step):
    """A difference that is told only."""
    import qubes_vpn_dom0  # imports qubesadmin, which is there once there is a machine
    from qubes_vpn_qubesd import Refused

    changes = {}
    with contextlib.suppress(Refused):  # a run says so
        qubes_vpn_dom0.run(machine, step.state, step.args, changes)
    for key, change in changes.items():
        why = f"The pillar says {change['new']}: edit it by hand, if that has changed."
        name, _, key = key.rpartition(": ")  # a step about several qubes names each
        yield Difference(name or step.args["name"], f"{key} {change['old']}", why=why)


def _missing(name, step):
    makes = step.state in ("present", "disposable", "template")
    why = "A run makes it." if makes else "Make it, or take it out of the pillar."
    return Difference(name, "there is no such qube", why=why)


def adopt(path, text, found):
    """The pillar's new text, and *found* with the reason where a difference is not accepted."""
    known = _problems(pillarfile.PillarFile(path, text))
    told = []
    for difference in found:
        if not difference.why:
            try:
                new = text
                for edit, *arguments in difference.edits:
                    new = edit(new, *arguments)
                worse = [
                    problem
                    for problem in pillarfile.PillarFile(path, new).problems()
                    if (problem.problem.path, problem.problem.what) not in known
                ]
            except UserError as error:
                difference = difference._replace(why=f"{error.what}. {error.fix}")
            else:
                if worse:
                    problem = worse[0].problem
                    difference = difference._replace(why=f"{problem.what}. {problem.fix}")
                else:
                    text = new
        told.append(difference)
    return text, told


def _problems(file):
    return {(located.problem.path, located.problem.what) for located in file.problems()}


class _Seen:
    """A machine, compared with what each kind of step wants."""

    def __init__(self, model, machine, outside):
        self.model, self.machine, self.outside = model, machine, outside

    def present(self, **_more):
        """A qube that exists stays as it is."""
        return ()

    disposable = present

    def template(self, name, **_more):
        netvm = self.machine.value(name, "netvm")
        if netvm is not None:
            yield Difference(name, f"netvm {netvm}", why="A template has none: a run takes it off.")

    def _service(self, name):
        """Of what a disposable tunnel is made from, that tunnel: the pillar has keys for it."""
        return self.model.services[self.model.homes().get(name, name)]

    def qube(self, name, settings=None, features=None, **_more):
        service = self._service(name)
        for key, wanted in (settings or {}).items():
            value = self.machine.value(name, key)
            if value == wanted:
                continue
            what = f"{key} {str(value).lower() if isinstance(value, bool) else value}"
            if wanted == service.home() != name:
                yield Difference(
                    name, what, why=f"It is made from {wanted}: a run puts that right."
                )
            elif key in _SETTINGS:
                path = (_TOP, f"{service.role}s", service.name, key)
                yield Difference(name, what, ((qubes_vpn_pillaredit.put, path, value),))
            elif key == "template_for_dispvms":
                why = f"{service.name} is made from it: a run switches it on."
                yield Difference(name, "is no template for disposables", why=why)
            else:
                why = "A service qube provides network: a run switches it on."
                yield Difference(name, "provides no network", why=why)
        for key, wanted in (features or {}).items():
            if self.machine.feature(name, key) != wanted:
                service = key.removeprefix("service.")
                who = "resolver" if name in self.model.resolvers() else "VPN qube"
                why = f"A {who} needs it: a run switches it on."
                yield Difference(name, f"service {service} is off", why=why)

    def firewall(self, name, rules, **_more):
        from qubesadmin.firewall import Rule  # is there once there is a machine

        have, wanted = self.machine.rules(name), [Rule(rule).rule for rule in rules]
        if have == wanted:
            return
        if name in (*self.model.tunnels(), *self.model.homes()):
            yield self._endpoints(name, have, wanted)
        else:
            yield self._allowlist(name, have)

    def _endpoints(self, name, have, rules):
        what = "another firewall list than its endpoints"
        if have != [rule for rule in rules if rule in have] or have[-1:] != [_DROP]:
            why = "What a VPN qube may reach is its endpoints: edit these, if one has changed."
            return Difference(name, what, why=why)
        path = (_TOP, "tunnels", self._service(name).name, "endpoints")
        gone = [place for place, rule in enumerate(rules) if rule not in have]
        edits = tuple((qubes_vpn_pillaredit.delete, (*path, place)) for place in reversed(gone))
        return Difference(name, "fewer endpoints in its firewall list", edits)

    def _allowlist(self, name, have):
        what = "another firewall list than its allowlist"
        if have == ["action=accept"]:
            why = "It may reach everything now. If that is meant, delete its allowlist by hand."
            return Difference(name, what, why=why)
        wanted = [qubes_vpn_net.written(rule) for rule in have[:-1]]
        if have[-1:] != [_DROP] or None in wanted:
            odd = next(
                (rule for rule in have[:-1] if not qubes_vpn_net.written(rule)), "the last rule"
            )
            why = f"No allowlist can say '{odd}': a run replaces the list."
            return Difference(name, what, why=why)
        old = [entry.text for entry in self.model.allowlists[name]]
        path = qubes_vpn_layout.place(self.model, "allowlist", name)
        return Difference(name, what, tuple(_of_list(path, old, wanted)))

    def netvm(self, name, netvm, otherwise=None, **_more):
        model, have = self.model, self.machine.value(name, "netvm") or "none"
        if otherwise and self.machine.klass(netvm) is None:
            netvm = otherwise
        inherits = self.machine.inherits(name, "netvm")
        if have == netvm and not inherits:
            return
        what = f"netvm {have}{' (inherited)' if inherits else ''}"
        if name in model.services:
            why = "How service qubes hang together is told by topology and upstream: edit these."
        elif name in model.vaults:
            why = f"A vault has no netvm. If it is none: {qubes_vpn_layout.no_vault(model, name)}."
        elif name == model.whonix_gateway and model.whonix != "unmanaged":
            why = "What it hangs on is told by topology or whonix: edit these."
        elif inherits:
            yield self._inherited(name, have, what)
            return
        else:
            yield self._route(name, have, what)
            return
        yield Difference(name, what, why=why)

    def _inherited(self, name, have, what):
        """Without a route a qube follows dom0's default_netvm."""
        known = {*self.model.services, self.model.uplink, self.model.whonix_gateway, "none"}
        if have not in known:
            return Difference(name, what, why=f"The pillar does not know {have}.")
        if have != "none" and self.model.in_clear(have):
            why = "That is in clear, and what a qube inherits cannot be in outside_vpn."
            return Difference(name, what, why=why)
        edits = [*self._no_longer_outside(name)]
        return Difference(
            name, what, (*edits, (qubes_vpn_pillaredit.delete, (_TOP, "routes", "qubes", name)))
        )

    def _route(self, name, have, what):
        route = (qubes_vpn_pillaredit.put, (_TOP, "routes", "qubes", name), have)
        if have == "none" or not self.model.in_clear(have):
            return Difference(name, what, (route, *self._no_longer_outside(name)))
        if name in self.model.outside_vpn:
            return Difference(name, what, (route,))
        if not self.outside:
            way = " -> ".join([name, *self.model.path(have)])
            why = f"{way} is in clear. If that is meant, say --outside."
            return Difference(name, what, why=why)
        listed = (qubes_vpn_pillaredit.append, (_TOP, "outside_vpn"), name)
        return Difference(name, what, (route, listed))

    def _no_longer_outside(self, name):
        if name in self.model.outside_vpn:
            left = [other for other in self.model.outside_vpn if other != name]
            yield from _of_list((_TOP, "outside_vpn"), list(self.model.outside_vpn), left)

    def default_netvm(self, name, **_more):
        have = self.machine.default_netvm() or "none"
        if have != name:
            edit = (qubes_vpn_pillaredit.put, (_TOP, "routes", "default"), have)
            yield Difference("default_netvm", f"is {have}", (edit,))


def _of_list(path, old, new):
    """Edits that make the list *old* at *path* the list *new*, items that stay untouched."""
    kept = [item for item in old if item in new]
    if kept != new[: len(kept)] or len(set(old)) != len(old):
        yield qubes_vpn_pillaredit.put, path, new
        return
    for place in reversed([place for place, item in enumerate(old) if item not in new]):
        yield qubes_vpn_pillaredit.delete, (*path, place)
    for item in new[len(kept) :]:
        yield qubes_vpn_pillaredit.append, path, item
