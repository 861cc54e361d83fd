# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways round a VPN that belong to the whole machine, on the machine as it is: which are open (R07).

Guides move the clients and forget these: who fetches templates' and dom0's updates, who sets the
clock, which netvm a disposable gets, and which disposable a qube opens its links in.
"""

import qubes_vpn_guard
import qubes_vpn_policy
from qubes_vpn_finding import some
from qubes_vpn_policy import Answer
from qubes_vpn_qubesd import Refused

#: The pillar's key by which updates are in clear because the user wants it.
_CHOICE = "outside_vpn, by choice"


class Ways:
    """Who is exposed on a ``qubes_vpn_machine.Machine``, by a ``qubes_vpn_guard.Guard``."""

    def __init__(self, machine, guard):
        self.machine, self.guard = machine, guard
        self.wiring = machine.wiring()

    def exposed(self, name):
        """Whether what the qube *name* itself sends may go out past every shelter."""
        if name not in self.wiring:
            return False
        provides = self.machine.value(name, "provides_network") is True
        return qubes_vpn_guard.exposed(name, self.wiring, self.guard, provides)

    def doubt(self, name):
        """The end of its way out, unless that is the pillar's uplink: it may be offline itself."""
        end = qubes_vpn_guard.path(name, self.wiring)[-1]
        return None if end == self.guard.uplink else end

    def online(self, name):
        """Whether it has a netvm, or is an uplink."""
        return self.wiring[name] is not None or self.exposed(name)

    def disposable_templates(self):
        """Names of the qubes that disposables are made from."""
        return [name for name in self.wiring if self.machine.value(name, "template_for_dispvms")]

    def clients_in_clear(self):
        """Names of exposed qubes that hang on somebody and are no service qubes."""
        return [
            name
            for name in self.wiring
            if name not in self.guard.services
            and qubes_vpn_guard.may_be_in_clear(name, self.wiring, self.guard)
        ]

    def update_servers(self):
        """Names of the qubes that fetch templates' updates."""
        rules = self.machine.policy()
        return {server(rules, name, tags).qube for name, tags in self._templates(rules)} - {None}

    def update_servers_but(self, proxy, whonix_gateway, ours):
        """What would go elsewhere with our file's text *ours*: ``[(template, Answer)]``.

        *proxy* (None: nobody) is to serve templates, and *whonix_gateway* those of Whonix.
        """
        rules = self.machine.policy(ours)
        found = []
        for name, tags in self._templates(rules):
            for has in (tags, {*tags, qubes_vpn_policy.WHONIX}):
                wanted = whonix_gateway if qubes_vpn_policy.WHONIX in has else proxy
                if (answer := server(rules, name, has)).qube != wanted:
                    found.append((name, answer))
        return found

    def not_to_override(self, ours):
        """Rules after ours that *ours* must not take the place of: ``[(template, was, will)]``."""
        return self._replaced(self.machine.policy(""), self.machine.policy(ours), Answer.forbids)

    def changed(self, ours):
        """Whose updates go another way with *ours* than now: ``[(template, was, will)]``."""
        now, then = self.machine.policy(), self.machine.policy(ours)
        return self._replaced(now, then, lambda was, will: not was.same(will))

    def _replaced(self, before, after, counts):
        """Templates whose two answers *counts* is true of; their tags are asked for only then."""
        tokens = {rule.source for rule in (*before, *after) if rule.source.startswith("@tag:")}
        others = tokens - {f"@tag:{qubes_vpn_policy.WHONIX}"}

        def answers(name, tags):
            return server(before, name, tags), server(after, name, tags)

        found = []
        for name in self.wiring:
            if self.machine.klass(name) != "TemplateVM":
                continue
            guesses = [answers(name, tags) for tags in ((), (qubes_vpn_policy.WHONIX,))]
            if others or any(counts(*guess) for guess in guesses):
                was, will = answers(name, self.machine.tags(name))
                if counts(was, will):
                    found.append((name, was, will))
        return found

    def _templates(self, rules):
        """``(name, tags)`` of every template; tags are asked for, a call each, only if they count.

        Without that, no template counts as Whonix', whose way is Tor.
        """
        tags = {rule.source for rule in rules if rule.source.startswith("@tag:")}
        whonix = {server(rules, "", {qubes_vpn_policy.WHONIX}).qube} - {None}
        count = tags != {f"@tag:{qubes_vpn_policy.WHONIX}"} or any(map(self.exposed, whonix))
        for name in self.wiring:
            if self.machine.klass(name) == "TemplateVM":
                yield name, self.machine.tags(name) if tags and count else set()


def server(rules, template, tags):
    """Who serves a template's updates."""
    return qubes_vpn_policy.answer(rules, template, "TemplateVM", tags)


def still_open(machine, guard, resolvers=(), outside=None):
    """The ways round the VPN that are open, a text each, with the pillar's key or the fix.

    resolvers: the pillar's, which ask something themselves.  outside: who fetches updates in clear
    by choice, as :meth:`qubes_vpn_model.Model.fetched_outside` has it.
    """
    ways = Ways(machine, guard)
    asking = [name for name in resolvers if ways.exposed(name)]
    asked = [f"what {_told(ways, asking)} asks for clients, encrypted (pillar: upstream)"]
    fetched = _fetched(ways, outside or {})
    return [*fetched, *_disposables(ways), *_clients(ways), *(asked if asking else ())]


def of_dom0(machine, guard, outside=None):
    """Those of them that are dom0's to close: updates, the time, and links in disposables."""
    ways = Ways(machine, guard)
    return [*_fetched(ways, outside or {}), *_disposables(ways)]


def copies(machine, guard):
    """Who opens what he gets in a disposable that holds what a tunnel logs in with, a text each."""
    homes = {
        machine.value(name, "template"): name
        for name in guard.services
        if machine.klass(name) == "DispVM"
    }
    openers = {}
    for name in machine.names():
        home = machine.disposables_of(name) if machine.klass(name) != "TemplateVM" else None
        if home in homes and home != name and machine.value(name, "template") != home:
            openers.setdefault(home, []).append(name)
    for home, names in sorted(openers.items()):
        yield (
            f"What {_names(names)} open{'s' if len(names) == 1 else ''} in a disposable is in one "
            f"of {home}, with a copy of what {homes[home]} logs in with: name another one (pillar: "
            f"default_dispvm; one qube: qvm-prefs {sorted(names)[0]} default_dispvm NAME)."
        )


def _fetched(ways, outside):
    """Updates, and the time; *outside*: who fetches updates in clear by choice."""
    try:
        servers = sorted(filter(ways.exposed, map(_base, ways.update_servers())))
    except Refused as unknown:
        yield f"templates' updates, perhaps: {unknown}"
    else:
        chosen = {outside.get("templates")} & {*servers}
        for some_of, key in (({*servers} - chosen, "templates"), (chosen, _CHOICE)):
            if some_of:
                who = _told(ways, sorted(some_of))
                yield f"templates' updates, by {who} (pillar: updates.{key})"
    for key, what, where in (
        ("updatevm", "dom0's updates", "updates.dom0"),
        ("clockvm", "the time", "clock"),
    ):
        name = ways.machine.named(key)
        if name and ways.exposed(name):
            if key == "updatevm" and name == outside.get("dom0"):
                where = f"updates.{_CHOICE}"
            yield f"{what}, by {_told(ways, [name])} (pillar: {where})"


def _disposables(ways):
    """What is opened in a disposable that is in clear, from a qube that is not."""
    openers = {}
    for name in ways.wiring:
        if ways.machine.klass(name) != "TemplateVM" and not ways.exposed(name):
            openers.setdefault(ways.machine.disposables_of(name), []).append(name)
    for template, names in sorted(openers.items(), key=str):
        if template and ways.exposed(template):
            yield (
                f"what {_names(names)} open{'s' if len(names) == 1 else ''} in a disposable, of "
                f"{_told(ways, [template])} (pillar: default_dispvm; one qube: qvm-prefs "
                f"{names[0]} default_dispvm NAME)"
            )


def _clients(ways):
    """Qubes in clear: disposables, those named in the pillar, and those that nobody thought of."""
    bases = set(ways.disposable_templates())
    groups = {"disposables of ": [], "by outside_vpn: ": [], "without a route in the pillar: ": []}
    disposables, chosen, others = groups.values()
    for name in ways.clients_in_clear():
        if name in ways.guard.outside_vpn:
            chosen.append(name)
        else:
            (disposables if name in bases else others).append(name)
    for what, names in groups.items():
        if names:
            key = " (pillar: disposables)" if names is disposables else ""
            yield f"{what}{_told(ways, names)}{key}"


def _base(server):
    """A qube's name, of what policy may redirect to: of a disposable, that of its template."""
    return server.removeprefix("@dispvm:")


def _told(ways, names):
    """Exposed qubes, with what they need to be in clear where that is not known."""
    told = []
    for name in names:
        end = ways.doubt(name)
        told.append(f"{name} (if {'it' if end == name else end} has a way out)" if end else name)
    return _names(told)


def _names(names):
    return some(sorted(names))
