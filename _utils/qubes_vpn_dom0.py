# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's qubes through one qubesadmin connection: bulk reads, few writes, each read back.

A dry :class:`Machine` (``test=True``) keeps what it would write to itself and answers later
questions as if it had been written, so that a dry run goes through the same checks, in the same
order, and says what the real run will say.
"""

import contextlib

import qubesadmin
import qubesadmin.exc
import qubesadmin.firewall

import qubes_vpn_guard

#: Classes of qubes that hold software for others, and dom0 itself: never somebody's client.
_NO_CLIENT = ("TemplateVM", "AdminVM")
#: Every qube that provides network enforces its clients' lists unless this feature is empty.
_FIREWALL = "service.qubes-firewall"

#: What a new AppVM has: these values, and those of its template (qubes/vm/qubesvm.py).
_NEW = {"netvm": None, "autostart": False, "provides_network": False}
_INHERITED = ("memory", "maxmem")
#: What a call to qubesd can raise.  Two are no QubesException where qubesadmin has them (R4.3):
#: what later releases of qubesd answer to a request that they do not let pass.
_QUBESD = (
    qubesadmin.exc.QubesException,
    OSError,
    *(
        getattr(qubesadmin.exc, name)
        for name in ("ProtocolError", "PermissionDenied")
        if hasattr(qubesadmin.exc, name)
    ),
)


class Refused(Exception):
    """A step that is not possible or not safe: the text says why and what to do."""


class Machine:
    """dom0's view of the qubes.

    Every method that changes something adds what it did to *changes* as it goes along, so that
    they are known also when a later part of it is refused.

    app: a ``qubesadmin.Qubes``.  dry: True to change nothing.
    """

    def __init__(self, app, dry=False):
        self.app = app
        self.app.cache_enabled = True  # one GetAll for each qube instead of forty Gets
        # Before anything names dom0, whose class the list has and qubesadmin cannot ask for alone.
        self.app.domains.refresh_cache()
        self.dry = dry
        self._pretended = {}  # of a dry run: (name, key) -> value; ("", name) -> class
        self._pretended_default = None
        self._cloner = None  # a second connection, see _clone
        self._started = set()  # qubesadmin goes on showing what it listed before a start

    # --- reading

    def klass(self, name):
        """Class of the qube, or None when there is no such qube."""
        if ("", name) in self._pretended:
            return self._pretended["", name]
        vm = self.app.domains.get(name)
        return None if vm is None else vm.klass

    def names(self):
        """Every qube and template, dom0 excepted."""
        made = [name for (key, name) in self._pretended if key == ""]
        real = [vm.name for vm in self.app.domains if vm.klass != "AdminVM"]
        return real + [name for name in made if name not in real]

    def value(self, name, key):
        """A property as plain data: bool, int, str, or None (also: not known yet)."""
        if (name, key) in self._pretended:
            return self._pretended[name, key]
        if ("", name) in self._pretended:
            return None
        vm = self.app.domains[name]
        if key == "netvm" and self._pretended_default and vm.property_is_default("netvm"):
            return self._pretended_default[0]
        try:
            return _plain(getattr(vm, key))
        except qubesadmin.exc.QubesPropertyAccessError:
            raise  # unknown is not unset
        except AttributeError:
            return None

    def inherits(self, name, key):
        """Whether a property has no value of its own."""
        if (name, key) in self._pretended or ("", name) in self._pretended:
            return False
        return self.app.domains[name].property_is_default(key)

    def feature(self, name, key):
        """A feature's value, or None when it is not set."""
        if (name, f"feature {key}") in self._pretended:
            return self._pretended[name, f"feature {key}"]
        if ("", name) in self._pretended:
            return None
        return self.app.domains[name].features.get(key)

    def rules(self, name):
        """The qube's firewall list, one line a rule in qubesadmin's own notation."""
        if (name, "rules") in self._pretended:
            return self._pretended[name, "rules"]
        if ("", name) in self._pretended:
            return ["action=accept"]  # what qubesd gives every new qube
        return [rule.rule for rule in self.app.domains[name].firewall.rules]

    def running(self, name):
        """Whether the qube runs (paused counts: it goes on with the netvm it has)."""
        if name in self._started:
            return True
        if ("", name) in self._pretended:
            return False
        return self.app.domains[name].get_power_state() != "Halted"

    def wiring(self):
        """Every qube's netvm: ``{name: name or None}``."""
        return {
            name: self.value(name, "netvm")
            for name in self.names()
            if self.klass(name) not in _NO_CLIENT
        }

    # --- changing

    def clone_template(self, name, source, changes):
        """Clones template *source* to *name* unless it is there; never leaves it a netvm (R23)."""
        klass = self.klass(name)
        if klass not in (None, "TemplateVM"):
            raise Refused(f"'{name}' is a qube ({klass}), not a template: choose another name.")
        if klass is None:
            self._need_template(source)
            changes["clone"] = {"old": None, "new": f"clone of {source}"}
            self._make(name, "TemplateVM", lambda: self._clone(source, name), changes)
            self._pretend(name, {key: self.value(source, key) for key in ("netvm", *_INHERITED)})
        netvm = self.value(name, "netvm")
        if netvm is not None:
            self._set(name, {"netvm": None}, changes)

    def present(self, name, label, template, settings, changes):
        """Makes an AppVM without a netvm unless there is a qube of that name."""
        klass = self.klass(name)
        if klass in _NO_CLIENT:
            raise Refused(f"'{name}' exists ({klass}) and is no qube: choose another name.")
        if klass is not None:
            return
        if template:
            self._need_template(template)
        changes["qube"] = {"old": None, "new": f"AppVM, {label}, {template or 'default template'}"}
        self._make(
            name, "AppVM", lambda: self.app.add_new_vm("AppVM", name, label, template), changes
        )
        if self.dry:
            template = template or _plain(self.app.default_template)
            known = {key: self.value(template, key) for key in _INHERITED}
            self._pretend(name, {**_NEW, **known, "template": template, "label": label})
        made = {}
        try:
            with in_words(f"'{name}' could not be finished"):
                self._set(name, {"netvm": None, **settings}, made)
        except Refused as refused:
            # Half made it would be online, and the next run would take it for the user's own.
            with in_words(f"{refused}. {_half_made(name)} Removing it did not work"):
                del self.app.domains[name]
            changes.clear()
            raise
        changes.update({key: {"old": None, "new": change["new"]} for key, change in made.items()})

    def firewall(self, name, rules, enforced_by, changes):
        """Replaces the qube's whole firewall list, in one call.

        enforced_by: the netvm that has to enforce it, or None; refused when its firewall is
        switched off.
        """
        self._need(name)
        if enforced_by and self.klass(enforced_by) and self.feature(enforced_by, _FIREWALL) == "":
            raise Refused(
                f"{enforced_by} would not enforce the list: its qubes-firewall service is switched "
                f"off. Switch it on (qvm-service {enforced_by} qubes-firewall on) and restart it."
            )
        new = [qubesadmin.firewall.Rule(rule) for rule in rules]
        old, wanted = self.rules(name), [rule.rule for rule in new]
        if old == wanted:
            return
        if self.dry:
            self._pretended[name, "rules"] = wanted
        else:
            vm = self.app.domains[name]
            with in_words(f"{name}: the firewall list was refused"):
                vm.firewall.save_rules(new)
        changes["firewall"] = {"old": "\n".join(old), "new": "\n".join(wanted)}
        if not self.dry:
            with in_words(f"{name}: the firewall list could not be read back"):
                vm.firewall.load_rules()
            if self.rules(name) != wanted:
                raise Refused(f"{name}: the firewall list reads back differently.")

    def settings(self, name, settings, changes):
        """Sets properties that differ; their names and values are qubesd's."""
        self._need(name)
        wrong = {key: value for key, value in settings.items() if self.value(name, key) != value}
        if "template" in wrong:
            self._new_template(name, wrong["template"])
        if wrong:
            self._set(name, wrong, changes)

    def features(self, name, features, changes):
        """Sets features that differ."""
        self._need(name)
        for key, value in features.items():
            old = self.feature(name, key)
            if old == value:
                continue
            if self.dry:
                self._pretended[name, f"feature {key}"] = value
            else:
                with in_words(f"{name}: feature {key} was refused"):
                    self.app.domains[name].features[key] = value
            changes[key] = {"old": old, "new": value}
            if self.feature(name, key) != value:
                raise Refused(f"{name}: feature {key} reads back differently.")

    def netvm(self, name, netvm, guard, changes):
        """Hangs a qube on *netvm* (None: on nothing), as its own choice, not an inherited one."""
        self._need(name)
        if self.klass(name) in _NO_CLIENT:
            raise Refused(f"'{name}' is a {self.klass(name)}: templates update without a netvm.")
        old, inherits = self.value(name, "netvm"), self.inherits(name, "netvm")
        if old == netvm and not inherits:
            return
        if netvm is not None:
            self._need_netvm(name, netvm)
        wiring = self.wiring()
        self._refuse_opening(wiring, {**wiring, name: netvm}, guard, f"{name} -> {_shown(netvm)}")
        if netvm is not None and self.running(name) and not self.running(netvm):
            self._start(netvm, changes)
        self._set(name, {"netvm": netvm}, changes)

    def default_netvm(self, netvm, guard, changes):
        """Sets dom0's default_netvm: the netvm of every qube that has none of its own choice."""
        if self._pretended_default:
            old = self._pretended_default[0]
        else:
            old = _plain(self.app.default_netvm)
        if old == netvm:
            return
        if netvm is not None:
            self._need_netvm(None, netvm)
        wiring = self.wiring()
        heirs = [name for name in wiring if self.inherits(name, "netvm")]
        _refuse_loop(heirs, netvm, wiring)
        after = {**wiring, **dict.fromkeys(heirs, netvm)}
        self._refuse_opening(wiring, after, guard, f"default_netvm {_shown(netvm)}")
        if netvm is not None and not self.running(netvm) and any(map(self.running, heirs)):
            self._start(netvm, changes)
        if self.dry:
            self._pretended_default = (netvm,)
        else:
            with in_words(f"default_netvm {netvm} was refused"):
                self.app.default_netvm = netvm
        changes["default_netvm"] = {"old": _shown(old), "new": _shown(netvm)}
        if heirs:
            changes["with it"] = {"old": None, "new": ", ".join(heirs)}
        if not self.dry:
            self.app.clear_cache()
            for name in heirs:
                self.app.domains[name].clear_cache()
            if _plain(self.app.default_netvm) != netvm:
                raise Refused("default_netvm reads back differently.")

    # --- one write, and what must be true before it

    def _make(self, name, klass, make, changes):
        """Makes a qube, which *changes* tell already; empties them when it could not be made."""
        if self.dry:
            self._pretended["", name] = klass
            return
        try:
            with in_words(f"'{name}' could not be made"):
                make()
        except Refused as refused:
            self.app.domains.clear_cache()
            if self.klass(name) is None:
                changes.clear()
                raise
            # It may be somebody else's, made this very moment: not ours to remove.
            raise Refused(f"{refused}. {_half_made(name)}") from refused
        self.app.domains.clear_cache()

    def _pretend(self, name, values):
        if self.dry:
            self._pretended.update({(name, key): value for key, value in values.items()})

    def _clone(self, source, name):
        # With its cache on, clone_vm asks dom0 for a property that dom0 lacks and stops half way;
        # with an empty cache it asks one by one for each property of the source.  So the source
        # is cached, and nothing else; and naming the source's pools saves it seventeen questions.
        if self._cloner is None:
            self._cloner = type(self.app)()
        app = self._cloner
        app.cache_enabled = True
        template = app.domains[source]
        template.property_is_default("netvm")
        app.cache_enabled = False
        pools = {volume: template.volumes[volume].pool for volume in ("root", "private")}
        app.clone_vm(template, name, pools=pools, ignore_devices=True)

    def _set(self, name, settings, changes):
        """Sets properties; one read for all of them says whether it worked."""
        old = {key: self._shown(name, key) for key in settings}
        for key, value in settings.items():
            if self.dry:
                self._pretended[name, key] = value
            else:
                with in_words(f"{name}: {key} {_shown(value)} was refused"):
                    setattr(self.app.domains[name], key, value)
            changes[key] = {"old": old[key], "new": _shown(value)}
        if self.dry:
            return
        with in_words(f"{name}: {', '.join(settings)} could not be read back"):
            self.app.domains[name].clear_cache()
            for key, value in settings.items():
                if self.value(name, key) != value or self.inherits(name, key):
                    raise Refused(f"{name}: {key} reads back differently.")

    def _shown(self, name, key):
        """A property's value as `changes` show it: an inherited netvm is told from a chosen one."""
        value = _shown(self.value(name, key))
        return f"{value} (inherited)" if key == "netvm" and self.inherits(name, key) else value

    def _start(self, name, changes):
        if not self.dry:
            with in_words(f"{name} did not start"):
                self.app.domains[name].start()
        self._started.update(qubes_vpn_guard.path(name, self.wiring()))  # its netvms start with it
        changes[name] = {"old": "halted", "new": "running"}

    def _need(self, name):
        if self.klass(name) is None:
            raise Refused(f"there is no qube '{name}'. Create it, or take it out of the pillar.")

    def _need_template(self, name):
        klass = self.klass(name)
        if klass is None:
            raise Refused(
                f"there is no template '{name}'. Install it (qvm-template install {name}), or name "
                "another one in the pillar."
            )
        if klass != "TemplateVM":
            raise Refused(
                f"'{name}' is a qube ({klass}), not a template. Name a template in the pillar."
            )

    def _new_template(self, name, template):
        self._need_template(template)
        if self.running(name):
            raise Refused(
                f"{name} is running, and its template can change only while it is halted. "
                f"Shut it down (qvm-shutdown {name}), then run this again."
            )

    def _need_netvm(self, name, netvm):
        if self.klass(netvm) is None:
            raise Refused(f"there is no qube '{netvm}' to be a netvm. Create it, or name another.")
        if self.value(netvm, "provides_network") is not True:
            raise Refused(
                f"'{netvm}' provides no network. Make it a service qube in the pillar, or set "
                f"'qvm-prefs {netvm} provides_network true' if it is one."
            )
        if name == netvm:
            raise Refused(f"'{name}' cannot be its own netvm. Name another.")
        way = qubes_vpn_guard.path(netvm, self.wiring())
        if name in way:
            raise Refused(
                f"{name} -> {' -> '.join(way)} would be a loop. Take {way[way.index(name) - 1]} "
                "off it first."
            )

    def _refuse_opening(self, before, after, guard, what):
        names = qubes_vpn_guard.opened(before, after, guard)
        if names:
            raise Refused(
                f"{what} would put {', '.join(names)} in clear, and now they are not. This step "
                "changed nothing. Take each of them offline "
                f"(qvm-prefs {names[0]} netvm none), run this again, and it gets the netvm that "
                "routes.qubes gives it; one without a route stays offline until 'qvm-prefs "
                f"--default {names[0]} netvm'. Or name it in outside_vpn, if in clear is where it "
                "belongs."
            )


def connect():
    """A new ``qubesadmin.Qubes``; raises :class:`Refused` when there is no qubesd."""
    with in_words("dom0's qubesd does not answer"):
        return qubesadmin.Qubes()


def _plain(value):
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _refuse_loop(heirs, netvm, wiring):
    for name in qubes_vpn_guard.path(netvm, wiring):
        if name in heirs:
            raise Refused(
                f"'{name}' inherits its netvm and {netvm} leads through it: a loop. Give {name} a "
                "netvm of its own first."
            )


def _half_made(name):
    return f"'{name}' is half made: remove it (qvm-remove {name}) and run this again."


def _shown(value):
    return "none" if value is None else value


@contextlib.contextmanager
def in_words(text):
    """Turns what qubesadmin raises into :class:`Refused` with *text* in front."""
    try:
        yield
    except _QUBESD as error:
        reason = str(error).strip() or "qubesd gave no answer; see journalctl -u qubesd"
        raise Refused(f"{text}: {reason}") from error
