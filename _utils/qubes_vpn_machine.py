# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's qubes through one qubesadmin connection: bulk reads, and single writes read back.

A dry :class:`Machine` (``test=True``) keeps what it would write to itself and answers later
questions as if it had been written, so that a dry run goes through the same checks, in the same
order, and says what the real run will say.
"""

import contextlib
import time

import qubesadmin
import qubesadmin.exc
import qubesadmin.firewall

import qubes_vpn_guard
import qubes_vpn_passing
import qubes_vpn_qvm_template
import qubes_vpn_record
from qubes_vpn_policy import SERVICES_FILE, NotPolicy, Policy
from qubes_vpn_problem import without_secret

#: Features of dom0 that note which qubes are being made: cloning, for one, takes many calls, and
#: what an interrupted run leaves looks like any other qube.
_NOTE = "x-qubes-vpn-"
_MAKING = f"{_NOTE}making."
#: The same of what is shut down and will be started again.
_STOPPED = f"{_NOTE}stopped."
#: Seconds for which one that has ended is waited for to be gone.
_GOING = 15
#: Bytes of a volume that hold no system and nobody's files: what a pool may need for itself.
_NOTHING = 1024**2
#: What clone_vm asks of the source.
_OF_SOURCE = (
    "admin.vm.feature.Get",
    "admin.vm.feature.List",
    "admin.vm.notes.Get",
    "admin.vm.tag.List",
    "admin.vm.volume.Info",
    "admin.vm.volume.List",
)
#: What no two qubes have in common.
_IDENTITY = {"name", "qid", "uuid", "label"}
#: What a new AppVM has: these values, and those of its template (qubes/vm/qubesvm.py).
_NEW = {
    "netvm": None,
    "autostart": False,
    "provides_network": False,
    "template_for_dispvms": False,
}
_INHERITED = ("memory", "maxmem")
#: Power states in which a qube is on and does not go on: neither does a change of its netvm.
FROZEN = ("Paused", "Suspended")
#: Set as a property's value: nobody's choice.
INHERITED = object()
_NOT_PRETENDED = object()
#: Seconds for which nobody asks again who is there and who runs.
_FRESH = 1
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

    app: a ``qubesadmin.Qubes``.  dry: True to change nothing.  record: the
    :class:`qubes_vpn_record.Record` that is told of each write before it is made.  root: where
    dom0's files are.  remarks: sentences for the user that are no changes.
    """

    def __init__(self, app, dry=False, record=None, root="/"):
        self.app = app
        self.app.cache_enabled = True  # one GetAll for each qube instead of forty Gets
        # Before anything names dom0, whose class the list has and qubesadmin cannot ask for alone.
        self.app.domains.refresh_cache()
        self.dry = dry
        self._record = record
        self._lines = None  # see recorded
        self.taken_off = {}  # names, of whom this run took offline to move them later
        self.parked = set()  # whom an undo took offline, to move them later
        self.may_undo = False  # whether an undo has been found to get through
        self._making = set()  # names; of what is being made there is nothing to go back to
        self._pretended = {}  # of a dry run: (name, key) -> value; ("", name) -> class
        self._pretended_default = None
        self._wiring = None  # of a dry run, see wiring
        self._pretended_globals = {}
        self._pretended_policy = ()  # a text, or None, once there is one
        self.root = root
        self._policy = Policy(root, self._named_by)
        self._cloner = None  # a second connection, see clone
        self._unfinished = None  # see unfinished
        self._notes = None  # see _noted_as
        self._features = {}  # name -> names of its features, see has_feature
        self._new = set()  # (name, what) that a qube made by this run has as every new qube
        self._looked = None  # when, see look_again
        self._power = {}  # name -> state, where it is newer than what qubesadmin goes on showing
        self._gone = set()  # names of what qubesadmin goes on showing after it was discarded
        self.remarks = []

    # --- reading

    def klass(self, name):
        """Class of the qube, or None when there is no such qube."""
        if ("", name) in self._pretended:
            return self._pretended["", name]
        vm = self.app.domains.get(name)
        return None if vm is None else vm.klass

    def names(self):
        """Every qube and template, dom0 excepted."""
        pretended = {name: klass for (key, name), klass in self._pretended.items() if key == ""}
        real = [vm.name for vm in self.app.domains if vm.klass != "AdminVM"]
        hidden = {*pretended, *self._gone}
        return [name for name in real if name not in hidden] + [
            name for name, klass in pretended.items() if klass
        ]

    def value(self, name, key):
        """A property as plain data: bool, int, str, or None (also: not known yet)."""
        pretended = self._pretended.get((name, key), _NOT_PRETENDED)
        if pretended not in (_NOT_PRETENDED, INHERITED):
            return pretended
        if ("", name) in self._pretended:
            return None
        vm = self.app.domains[name]
        if pretended is INHERITED:
            if key == "netvm" and vm.klass != "TemplateVM":
                return self.default_netvm()
            return _plain(vm.property_get_default(key))
        heir = key == "netvm" and self._pretended_default and vm.klass != "TemplateVM"
        if heir and vm.property_is_default("netvm"):
            return self._pretended_default[0]
        try:
            return _plain(getattr(vm, key))
        except qubesadmin.exc.QubesPropertyAccessError:
            raise  # unknown is not unset
        except AttributeError:
            return None

    def inherits(self, name, key):
        """Whether a property has no value of its own."""
        if (name, key) in self._pretended:
            return self._pretended[name, key] is INHERITED
        if ("", name) in self._pretended:
            return False
        try:
            return self.app.domains[name].property_is_default(key)
        except qubesadmin.exc.QubesPropertyAccessError:
            raise  # unknown is not unset
        except AttributeError:
            return False  # not of this class of qubes

    def feature(self, name, key):
        """A feature's value, or None when it is not set."""
        if (name, f"feature {key}") in self._pretended:
            return self._pretended[name, f"feature {key}"]
        if ("", name) in self._pretended or (name, "features") in self._new:
            return None
        return self.app.domains[name].features.get(key)

    def has_feature(self, name, key):
        """Whether a feature is set, to whatever it is; a qube's are asked for once in a run."""
        if name not in self._features:
            new = ("", name) in self._pretended or (name, "features") in self._new
            self._features[name] = set() if new else {*self.app.domains[name].features}
        pretended = (name, f"feature {key}")
        if pretended in self._pretended:
            return self._pretended[pretended] is not None
        return key in self._features[name]

    def enforces(self, name):
        """Whether a netvm enforces its clients' firewall lists.

        It does by feature ``qubes-firewall``, its own or its template's, unless its service of that
        name is switched off (man page of qvm-features, qubes-core-admin-client).
        """
        if self.feature(name, "service.qubes-firewall") == "":
            return False
        return self.announces(name, "qubes-firewall")

    def announces(self, name, key):
        """Whether the qube or its template has a feature by which the template tells of itself."""
        if ("", name) in self._pretended:
            template = self.value(name, "template")
            source = self._pretended.get((template, "clone of"), template)
            if source and self.klass(source) != "TemplateVM":  # of a disposable
                return self.announces(source, key)
            return bool(source and self.feature(source, key))
        return bool(self.app.domains[name].features.check_with_template(key, None))

    def tags(self, name):
        """The tags of a qube or template."""
        if ("", name) in self._pretended:
            source = self._pretended.get((name, "clone of"))
            return self.tags(source) if source else set()
        return set(self.app.domains[name].tags)

    def unfinished(self):
        """Names of qubes that an earlier run began to make and did not finish."""
        if self._unfinished is None:
            self._unfinished = self._noted_as(_MAKING)
        return self._unfinished

    def stopped(self):
        """Names of qubes that an earlier run shut down and did not start again, sorted."""
        return sorted(self._noted_as(_STOPPED))

    def bypasses(self):
        """Names of the disposables that may go past the VPN for a while, sorted."""
        return sorted(self._noted_as(qubes_vpn_passing.NOTE))

    def _noted_as(self, note):
        """Whom dom0's features name after *note*, as they were when this was asked first."""
        if self._notes is None:
            self._notes = [*self.app.domains["dom0"].features]
        return {key.removeprefix(note) for key in self._notes if key.startswith(note)}

    def rules(self, name):
        """The qube's firewall list, one line a rule in qubesadmin's own notation."""
        if (name, "rules") in self._pretended:
            return self._pretended[name, "rules"]
        if ("", name) in self._pretended or (name, "rules") in self._new:
            return ["action=accept"]  # what qubesd gives every new qube
        return [rule.rule for rule in self.app.domains[name].firewall.rules]

    def has_rules(self, name, rules):
        """Whether the qube's firewall list is *rules*, as qubesadmin writes them."""
        return self.rules(name) == [qubesadmin.firewall.Rule(rule).rule for rule in rules]

    def look_again(self):
        """Asks who is there and who runs, unless it has just been asked: a run may take minutes."""
        if self.dry:
            return  # it tells of one moment
        if self._looked is not None and time.monotonic() - self._looked < _FRESH:
            return
        answer = self.app.qubesd_call("dom0", "admin.vm.List").decode("ascii")
        listed = {}
        for line in answer.splitlines():
            name, *words = line.split(" ")
            listed[name] = dict(word.split("=", 1) for word in words)["state"]
        if listed.keys() != set(self.app.domains.keys()):
            self.app.domains.refresh_cache(force=True)
        self._power = listed
        self._looked = time.monotonic()

    def ask_anew(self, names):
        """Forgets what is known of these qubes: a call that failed may have been done."""
        if not self.dry:
            self.app.clear_cache()
            for vm in filter(None, map(self.app.domains.get, names)):  # an undo removes some
                vm.clear_cache()

    def power(self, name):
        """The qube's power state, as qubesadmin names it."""
        if name in self._power:
            return self._power[name]
        if ("", name) in self._pretended:
            return "Halted"
        return self.app.domains[name].get_power_state()

    def running(self, name):
        """Whether the qube is on (paused counts: it goes on with the netvm it has)."""
        return self.power(name) != "Halted"

    def wiring(self):
        """Every qube's and template's netvm: ``{name: name or None}``."""
        if self._wiring is not None:
            return dict(self._wiring)
        wiring = {name: self.value(name, "netvm") for name in self.names()}
        if self.dry:  # a real run asks each time: its lock relies on nothing that it remembers
            self._wiring = dict(wiring)
        return wiring

    def named(self, key):
        """The name of the qube that dom0 has for *key*, or None."""
        if key == "default_netvm":
            return self.default_netvm()
        if key in self._pretended_globals:
            return self._pretended_globals[key]
        return _plain(getattr(self.app, key))

    def default_netvm(self):
        """Name of dom0's default_netvm, or None."""
        if self._pretended_default:
            return self._pretended_default[0]
        return _plain(self.app.default_netvm)

    def written(self, name, volume):
        """Whether a volume of a halted template holds anything.

        A new one is sparse: ``usage`` of admin.vm.volume.Info is 0, or what the pool needs for
        itself, and a copy uses what its source does (qubes/storage/{reflink,lvm,zfs}.py).
        """
        return self.app.domains[name].volumes[volume].usage >= _NOTHING

    def untouched(self, name):
        """Whether an AppVM, or a template without a system, is as qubesd makes every one."""
        vm = self.app.domains[name]
        changed = [key for key in vm.property_list() if not vm.property_is_default(key)]
        return set(changed) <= {*_IDENTITY, "template"} and not self.written(name, "private")

    def disposables_of(self, name):
        """The template of the disposables in which a qube opens things, or None."""
        if ("", name) not in self._pretended and not self.inherits(name, "default_dispvm"):
            return self.value(name, "default_dispvm")
        if self.klass(name) == "DispVM":
            return self.value(name, "template")
        return self.named("default_dispvm")

    def policy_text(self):
        """The text of the formula's own policy file, or None; see :mod:`qubes_vpn_policy`."""
        with _policy_in_words():
            return (
                self._policy.current() if self._pretended_policy == () else self._pretended_policy
            )

    def added_to_policy(self):
        """Where the formula's own policy file has a line of somebody else's; None: nowhere."""
        with _policy_in_words():
            return self._policy.added()

    def policy(self, ours=None):
        """The rules for templates' updates, with *ours* in place of what our file has."""
        with _policy_in_words():
            return self._policy.rules(self._pretended_policy if ours is None else ours)

    def policy_lines(self):
        """The same by file, as lines: ``{name: [line]}``."""
        return self._policy.lines()

    # --- single writes

    def make(self, name, klass, template, label):
        """Makes an AppVM, from dom0's default template when *template* is None; or a DispVM."""
        if self.dry:
            template = template or _plain(self.app.default_template)
            if template is None:
                raise Refused(
                    f"'{name}' could not be made: dom0 has no default template. Name the "
                    "template in the pillar, or: qubes-prefs default_template NAME"
                )
            values = {**_NEW, **{key: self.value(template, key) for key in _INHERITED}}
            if klass == "DispVM":
                values |= self._taken_over(template)
            self._pretend(name, klass, {**values, "template": template, "label": label})
            return
        with in_words(f"'{name}' could not be made"):
            self.app.add_new_vm(klass, name, label, template)
        if klass == "AppVM":
            self._new |= {(name, "features"), (name, "rules")}

    def _taken_over(self, template):
        """Of a dry run: what a disposable has from its template (qubes/vm/dispvm.py)."""
        of_it = [what for name, what in self._pretended if name == template]
        features = {what.removeprefix("feature ") for what in of_it if what.startswith("feature ")}
        if ("", template) not in self._pretended:
            features |= {*self.app.domains[template].features}
        return {
            **{key: self.value(template, key) for key in _NEW if key != "template_for_dispvms"},
            **{f"feature {key}": self.feature(template, key) for key in features},
            "rules": self.rules(template),
        }

    def clone(self, name, source, created):
        """Makes a template as a copy of template *source*.

        Calls ``created(uuid)`` as soon as there is one, before anything is copied to it.
        """
        if self.dry:
            known = {key: self.value(source, key) for key in ("netvm", *_INHERITED)}
            self._pretend(name, "TemplateVM", {"clone of": source, **known})
            return
        with in_words(f"'{name}' could not be made"):
            # With its cache on, clone_vm asks dom0 for a property that dom0 lacks and stops half
            # way; with an empty cache it asks one by one for each property of the source.  So the
            # source is cached, and nothing else; and naming the source's pools saves it seventeen
            # questions.
            if self._cloner is None:
                self._cloner = _cloner(type(self.app))()
            app = self._cloner

            def tell():
                # "default=False type=str 17e3..."; the qube's object does not know its class yet.
                got = app.qubesd_call(name, "admin.vm.property.Get", "uuid")
                created(got.decode().split()[-1])

            app._created, app._source = tell, source
            app.cache_enabled = True
            template = app.domains[source]
            template.property_is_default("netvm")
            app.cache_enabled = False
            pools = {volume: template.volumes[volume].pool for volume in ("root", "private")}
            app.clone_vm(template, name, pools=pools, ignore_devices=True)
        self.forget_names()  # it was made by the other connection

    def install(self, name):
        """Has template *name* installed, see :mod:`qubes_vpn_qvm_template`."""
        try:
            qubes_vpn_qvm_template.check(name)
            if not self.dry:
                qubes_vpn_qvm_template.install(name)
        except qubes_vpn_qvm_template.NotInstalled as error:
            raise Refused(f"template '{name}' could not be installed: {error}") from error
        finally:
            self._cloner = None
            self.forget_names()
        if self.dry:
            self._pretend(name, "TemplateVM", {"netvm": None})
            if not name.endswith("-minimal"):  # the others have what a netvm needs
                enforcing = ("qubes-firewall", "supported-service.qubes-updates-proxy")
                self._pretended.update({(name, f"feature {key}"): "1" for key in enforcing})

    def installing(self):
        """Whether a template is being installed, by us or by somebody else."""
        return qubes_vpn_qvm_template.busy(self.root)

    def begin(self, name, note="1"):
        """Notes, and records, that a qube or template is about to be made."""
        self._tell("making", name)
        self._making.add(name)
        self._write_feature("dom0", self.note(name), note)

    def uuid(self, name):
        """What tells this qube from a later one of its name."""
        if not (found := self.value(name, "uuid")) and ("", name) not in self._pretended:
            raise Refused(f"{name}: qubesd does not say which one it is (uuid). Run this again.")
        return found

    def claim(self, name, uuid):
        """Records that the qube of this uuid is ours."""
        self._tell("made", name, uuid)

    def mark(self, name, uuid):
        """Notes that it is the qube of this uuid that is being made."""
        self._write_feature("dom0", self.note(name), uuid)

    def end(self, name):
        """Takes the note away: nothing is missing any more, or there is no such qube."""
        self._recording()  # a run that could not go on does not begin with this
        self._making.discard(name)
        self._write_feature("dom0", self.note(name), None)
        if self._unfinished is not None:
            self._unfinished.discard(name)

    def noted(self, name):
        """What the note of a qube that is being made says."""
        return self.feature("dom0", self.note(name))

    def note(self, name):
        """The feature of dom0 that says of a qube that it is being made."""
        return f"{_MAKING}{name}"

    def forget_names(self):
        """Forgets which qubes there are and run: another connection or process changed that."""
        self._looked = None
        self.app.domains.clear_cache()

    def remove(self, name):
        """Removes a qube."""
        self._recording()  # a run that could not go on does not begin with this
        if self.dry:
            self._pretended["", name] = None
            self._gone.add(name)
            self._wiring = None
            return
        self.app.domains[name].clear_cache()  # the next of that name has the same object
        del self.app.domains[name]
        self._making.discard(name)
        self._new -= {(name, "features"), (name, "rules")}

    def set(self, name, settings, changes):
        """Sets properties, to INHERITED too; one read for all of them says whether it worked."""
        old = {key: self.shown(name, key) for key in settings}
        for key, value in settings.items():
            self._keep_property(name, key, value)
            if self.dry:
                self._pretended[name, key] = value
                if key == "netvm" and self._wiring is not None:
                    self._wiring[name] = self.value(name, key)
            else:
                with in_words(f"{name}: {key} {shown(value)} was refused"):
                    if value is INHERITED:
                        delattr(self.app.domains[name], key)
                    else:
                        setattr(self.app.domains[name], key, value)
            changes[key] = {"old": old[key], "new": shown(value)}
        with in_words(f"{name}: {', '.join(settings)} could not be read back"):
            if not self.dry:
                self.app.domains[name].clear_cache()
            for key, value in settings.items():
                inherited = value is INHERITED
                if self.inherits(name, key) != inherited or (
                    not inherited and self.value(name, key) != value
                ):
                    raise Refused(f"{name}: {key} reads back differently.")
                changes[key]["new"] = self.shown(name, key)

    def set_feature(self, name, key, old, value):
        """Sets a feature, which was *old*; None removes it."""
        self._keep("feature", name, key, old, new=value)
        self._write_feature(name, key, value)

    def _write_feature(self, name, key, value):
        self._new.discard((name, "features"))
        self._features.pop(name, None)
        if self.dry:
            self._pretended[name, f"feature {key}"] = value
        elif value is None:
            del self.app.domains[name].features[key]
        else:
            self.app.domains[name].features[key] = value

    def set_rules(self, name, rules, changes):
        """Replaces the qube's whole firewall list, in one call, when it differs."""
        if self.has_rules(name, rules):
            return
        new = [qubesadmin.firewall.Rule(rule) for rule in rules]
        old, wanted = self.rules(name), [rule.rule for rule in new]
        self._new.discard((name, "rules"))
        self._keep("firewall", name, "rules", old, new=wanted)
        if self.dry:
            self._pretended[name, "rules"] = wanted
        else:
            with in_words(f"{name}: the firewall list was refused"):
                self.app.domains[name].firewall.save_rules(new)
        changes["firewall"] = {"old": rules_text(old), "new": rules_text(wanted)}
        if not self.dry:
            with in_words(f"{name}: the firewall list could not be read back"):
                self.app.domains[name].firewall.load_rules()
            if self.rules(name) != wanted:
                raise Refused(f"{name}: the firewall list reads back differently.")

    def set_default_netvm(self, netvm, heirs, changes):
        """Sets dom0's default_netvm, which is the netvm of *heirs* (names) too."""
        old = self.default_netvm()
        self._keep_global("default_netvm", netvm)
        if self.dry:
            self._pretended_default = (netvm,)
            self._wiring = None
        else:
            with in_words(f"default_netvm {shown(netvm)} was refused"):
                self.app.default_netvm = netvm
        changes["default_netvm"] = {"old": shown(old), "new": shown(netvm)}
        if heirs:
            changes["with it"] = {"old": None, "new": ", ".join(heirs)}
        if not self.dry:
            self.app.clear_cache()
            for name in heirs:
                self.app.domains[name].clear_cache()
            if self.default_netvm() != netvm:
                raise Refused("default_netvm reads back differently.")

    def set_named(self, key, name, changes):
        """Gives dom0 the qube *name* (None: none) for *key*, another than default_netvm."""
        old = self.named(key)
        self._keep_global(key, name)
        if self.dry:
            self._pretended_globals[key] = name
        else:
            with in_words(f"{key} {shown(name)} was refused"):
                setattr(self.app, key, name)
        changes[key] = {"old": shown(old), "new": shown(name)}
        if not self.dry:
            self.app.clear_cache()
            if self.named(key) != name:
                raise Refused(f"{key} reads back differently.")

    def set_policy(self, new):
        """Makes *new* the text of the formula's own policy file; None: removes it."""
        old = self.policy_text()
        self._tell("change", "file", "dom0", str(self._policy.path), old, new=new)
        if self.dry:
            self._pretended_policy = new
            return
        with _policy_in_words():
            self._policy.write(new)

    def start(self, name, changes):
        """Starts a qube; its netvms start with it."""
        halted = [
            each for each in qubes_vpn_guard.path(name, self.wiring()) if not self.running(each)
        ]
        if not self.dry:
            with in_words(f"{name} did not start"):
                self.app.domains[name].start()
        self._power.update(dict.fromkeys(halted, "Running"))
        changes.update({each: {"old": "halted", "new": "running"} for each in halted})

    def moving(self, wiring, guard):
        """Somebody is about to be moved: *wiring* and what the pillar promises are recorded."""
        self._tell("wiring", wiring)
        self._tell("promise", guard)

    def shut_down(self, name):
        """Shuts a qube down and waits for it, as long as its ``shutdown_timeout`` says."""
        if not self.dry:
            with in_words(f"{name} did not shut down"):
                # Not vm.shutdown(wait=True), which the qubesadmin of R4.2 lacks; its qubesd waits.
                self.app.domains[name].qubesd_call(None, "admin.vm.Shutdown", "wait")
        self._power[name] = "Halted"

    def stopping(self, name):
        """Notes that a qube is shut down only to be started again."""
        with in_words(f"{name}: dom0 could not note that it is shut down for a moment"):
            self._write_feature("dom0", f"{_STOPPED}{name}", "1")

    def started(self, name):
        """Takes that note away."""
        note = f"{_STOPPED}{name}"
        with in_words(f"{name}: the note in dom0 could not be removed"):
            self._write_feature("dom0", note, None)
        # One of an earlier run is gone with it.
        self._notes = self._notes and [key for key in self._notes if key != note]

    def discard(self, name, changes):
        """Ends a preloaded disposable, which removes itself then; refused when it is in use."""
        if not self.dry:
            with in_words(f"{name}, a preloaded disposable, could not be discarded"):
                self.app.domains[name].clear_cache()
                if self.value(name, "is_preload") is not True:
                    raise Refused(f"{name} was taken into use meanwhile. Run this again.")
                self.app.domains[name].kill()
        self._gone.add(name)
        self._wiring = None
        changes[name] = {"old": "preloaded", "new": "discarded"}

    def passing(self, name):
        """*name* does not stay, so what is set on it is nothing to go back to."""
        self._recording()  # a record that cannot tell of it stops it here
        self._making.add(name)

    def note_bypass(self, name, which):
        """Notes in dom0 that *name* may go past the VPN, before there is one, until there is none.

        which: ``1``, once there is one :func:`qubes_vpn_passing.note`, and None: no more.
        """
        with in_words(f"{name}: dom0 could not note what becomes of it"):
            if which is None and self.noted_bypass(name) is None:
                return
            self._write_feature("dom0", f"{qubes_vpn_passing.NOTE}{name}", which)

    def noted_bypass(self, name):
        """What that note says."""
        return self.feature("dom0", f"{qubes_vpn_passing.NOTE}{name}")

    def is_bypass(self, name):
        """Whether that note is about the qube that has this name now.

        Before there is a uuid in it, one that is as we make it counts: off, and nobody's.
        """
        if self.klass(name) != "DispVM" or not (noted := self.noted_bypass(name)):
            return False
        uuid = qubes_vpn_passing.uuid(noted)
        return self._is_new_disposable(name) if uuid is None else uuid == self.uuid(name)

    def _is_new_disposable(self, name):
        if self.running(name) or self.value(name, "label") != qubes_vpn_passing.LABEL:
            return False
        vm, template = self.app.domains[name], self.value(name, "template")
        changed = {key for key in vm.property_list() if not vm.property_is_default(key)}
        return not self.written(name, "private") and all(
            self.value(name, key) == self.value(template, key)
            for key in changed - {*_IDENTITY, "template", "dispid"}
        )

    def alone(self, make=False):
        """Whether nobody else opens or closes a bypass meanwhile, as a context's value."""
        if self.dry or self._record is None:
            return contextlib.nullcontext(True)
        return self._record.alone(make)

    def kill(self, name):
        """Ends a disposable at once, and removes it if it does not do so itself."""
        if self.dry:
            self._pretended["", name] = None
            self._wiring = None
            return
        until = time.monotonic() + _GOING
        with in_words(f"{name} could not be ended"):
            if self._is_there(name):
                with contextlib.suppress(qubesadmin.exc.QubesVMNotStartedError):
                    self.app.domains[name].kill()
            while self._is_there(name):  # qubesd may not have come to remove it yet
                try:
                    del self.app.domains[name]
                except qubesadmin.exc.QubesException:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.5)
                    with contextlib.suppress(qubesadmin.exc.QubesException):
                        self.app.domains[name].kill()  # it was just being started

    def _is_there(self, name):
        self.forget_names()
        return name in self.app.domains

    def folder(self):
        """Where the record lies."""
        return self._record.folder

    def event(self, what, of, by, **more):
        """Records what somebody does that is no run: see :mod:`qubes_vpn_record`."""
        self._tell("event", what, of, by, **more)

    def remark(self, text):
        """Keeps a sentence for the user, once."""
        if text not in self.remarks:
            self.remarks.append(text)

    def shown(self, name, key):
        """A property's value as `changes` show it: an inherited netvm is told from a chosen one."""
        value = shown(self.value(name, key))
        return f"{value} (inherited)" if key == "netvm" and self.inherits(name, key) else value

    def recorded(self):
        """The record's lines, as they were when this was asked first."""
        if self._lines is None:
            with _recorded():
                self._lines = self._record.lines() if self._record else []
        return self._lines

    def undoing(self):
        """This run is an undo: so the record has it."""
        if self._record is not None:
            self._record.undoing = True

    def undone(self, runs):
        """Records that *runs* have been undone."""
        self._tell("undone", runs)

    def forget(self, changes):
        """Takes away what the formula keeps in dom0: the record and its notes."""
        features = self.app.domains["dom0"].features
        for key in sorted(key for key in features if key.startswith(_NOTE)):
            changes[key] = {"old": "a note", "new": "removed"}
            if not self.dry:
                with in_words(f"dom0: feature {key} could not be removed"):
                    del features[key]
        if self.recorded():
            changes["record"] = {"old": str(self._record.folder), "new": "removed"}
            self._tell("remove")
        self.set_services_policy(None, changes)

    def set_services_policy(self, new, changes):
        """Makes *new* the text of the file that keeps qubes from our services; None removes it.

        What it keeps away is no qube's business in any pillar, so an undo leaves it.
        """
        policy = Policy(self.root, file=SERVICES_FILE)
        try:
            if (old := policy.current()) == new:
                return
            if not self.dry:
                policy.write(new)
        except NotPolicy as error:
            raise Refused(f"{error}.") from error
        was = "not there" if old is None else "of another version" if new else "there"
        changes[SERVICES_FILE] = {"old": was, "new": "there" if new else "removed"}

    def _named_by(self, uuid):
        found = (name for name in self.names() if self.value(name, "uuid") == uuid)
        return next(found, None)

    def _recording(self):
        """Whether lines are written; looks first whether they can be, also in a dry run."""
        if self._record is not None:
            with _recorded():
                self._record.check()
        return self._record is not None and not self.dry

    def _tell(self, what, *arguments, **more):
        """Has the record write a line; raises :class:`Refused` when it cannot."""
        if self._recording():
            with _recorded():
                getattr(self._record, what)(*arguments, **more)

    def _keep_property(self, name, key, new):
        if self._recording():
            try:
                inherited = self.app.domains[name].property_is_default(key)
            except qubesadmin.exc.QubesPropertyAccessError:
                raise  # what is not known cannot be put back
            except AttributeError:
                inherited = False  # no such property: qubesd will say so
            if key == "netvm" and name not in self._making:
                self._tell("wiring", self.wiring())
            more = {} if new is INHERITED else {"new": new}
            self._keep("property", name, key, self.value(name, key), inherited=inherited, **more)

    def _keep_global(self, key, new):
        if self._recording():
            old, inherited = _plain(getattr(self.app, key)), self.app.property_is_default(key)
            self._tell("change", "global", "dom0", key, old, new=new, inherited=inherited)

    def _keep(self, kind, name, key, old, **more):
        if self._recording() and name not in self._making:
            self._tell("change", kind, name, key, old, **more, uuid=self.uuid(name))

    def _pretend(self, name, klass, values):
        self._wiring = None
        self._pretended["", name] = klass
        self._pretended.update({(name, key): value for key, value in values.items()})


@contextlib.contextmanager
def _recorded():
    """Turns a record that cannot be written into :class:`Refused`: then nothing is replaced."""
    try:
        yield
    except qubes_vpn_record.Unusable as unusable:
        raise Refused(str(unusable)) from unusable


class _Qubes(qubesadmin.Qubes):
    """A connection that knows which call was left without an answer."""

    def qubesd_call(self, dest, method, arg=None, *rest, **more):
        try:
            return super().qubesd_call(dest, method, arg, *rest, **more)
        except qubesadmin.exc.QubesDaemonAccessError as error:
            error.call = f"{method}{'+' + arg if arg else ''} on {dest}"
            raise


def connect():
    """A new ``qubesadmin.Qubes``; raises :class:`Refused` when there is no qubesd."""
    with in_words("dom0's qubesd does not answer"):
        return _Qubes()


def shown(value):
    """A value in words."""
    if value is INHERITED:
        return "inherited"
    return "none" if value is None else value


def meant(name):
    """The qube's name, or None, that *name* in a step's arguments means: `shown` backwards."""
    return None if name == "none" else name


def rules_text(rules):
    """A firewall list in words, without comments that look like a secret."""
    return "\n".join(without_secret(rule) for rule in rules)


def _cloner(app_class):
    """A class of apps that call ``_created()`` right after a qube is created.

    What they ask of ``_source`` they ask once: two templates are often cloned from one.
    """

    class Cloner(app_class):
        _created = _source = None

        def __init__(self):
            super().__init__()
            self._known = {}

        def qubesd_call(self, dest, method, *rest, **more):
            asked = (dest, method, *rest[:1])
            if asked in self._known:
                return self._known[asked]
            answer = super().qubesd_call(dest, method, *rest, **more)
            if dest == self._source and method in _OF_SOURCE:
                self._known[asked] = answer
            if method.startswith("admin.vm.Create"):
                self._created()
            return answer

    return Cloner


@contextlib.contextmanager
def in_words(text):
    """Turns what qubesadmin raises into :class:`Refused` with *text* in front."""
    try:
        yield
    except _QUBESD as error:
        raise Refused(f"{text}: {_reason(error)}") from error


def _reason(error):
    """Why qubesd refused: the reason behind it, where qubesadmin tells of no access alone."""
    behind = error
    if isinstance(error, qubesadmin.exc.QubesPropertyAccessError) and error.__context__:
        behind = error.__context__
    if hasattr(behind, "call"):
        return (
            f"qubesd gave no answer to {behind.call}. It took a value for malformed, or failed "
            "itself: 'sudo journalctl -u qubesd' in dom0 says which"
        )
    if isinstance(behind, qubesadmin.exc.QubesVMNotFoundError):
        return "there is no such qube any more. Run this again"
    return str(error).strip() or "qubesd gave no reason; 'sudo journalctl -u qubesd' in dom0 may"


@contextlib.contextmanager
def _policy_in_words():
    try:
        yield
    except NotPolicy as error:
        raise Refused(f"{error}. Templates' updates are as they were.") from error


def _plain(value):
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
