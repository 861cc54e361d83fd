# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's qubes, changed: single writes, each recorded before and read back.

A dry :class:`Machine` (``test=True``) keeps what it would write to itself and answers later
questions as if it had been written, so that a dry run goes through the same checks, in the same
order, and says what the real run will say.
"""

import contextlib
import time

import qubesadmin.exc
import qubesadmin.firewall

import qubes_vpn_guard
import qubes_vpn_passing
import qubes_vpn_qvm_template
import qubes_vpn_record
from qubes_vpn_policy import SERVICES_FILE, NotPolicy, Policy
from qubes_vpn_qubesd import INHERITED, Refused, cloner, in_words, plain, rules_text, shown
from qubes_vpn_reading import NOTE, STOPPED, Reading, policy_in_words

#: Seconds for which one that has ended is waited for to be gone.
_GOING = 15
#: What a new AppVM has: these values, and those of its template (qubes/vm/qubesvm.py).
_NEW = {
    "netvm": None,
    "autostart": False,
    "provides_network": False,
    "template_for_dispvms": False,
}
_INHERITED = ("memory", "maxmem")


class Machine(Reading):
    """dom0's view of the qubes, and its hand.

    Every method that changes something adds what it did to *changes* as it goes along, so that
    they are known also when a later part of it is refused.

    record: the :class:`qubes_vpn_record.Record` that is told of each write before it is made.
    app, dry (True to change nothing), root: of :class:`qubes_vpn_reading.Reading`.
    remarks: sentences for the user that are no changes.
    """

    def __init__(self, app, dry=False, record=None, root="/"):
        super().__init__(app, dry, root)
        self._record = record
        self._lines = None  # see recorded
        self.taken_off = {}  # names, of whom this run took offline to move them later
        self.parked = set()  # whom an undo took offline, to move them later
        self.may_undo = False  # whether an undo has been found to get through
        self._making = set()  # names; of what is being made there is nothing to go back to
        self._cloner = None  # a second connection, see clone
        self.remarks = []

    def make(self, name, klass, template, label):
        """Makes an AppVM, from dom0's default template when *template* is None; or a DispVM."""
        if self.dry:
            template = template or plain(self.app.default_template)
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
                self._cloner = cloner(type(self.app))()
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

    def begin(self, name, note="1"):
        """Notes, and records, that a qube or template is about to be made."""
        self._tell("making", name)
        self._making.add(name)
        self._write_feature("dom0", self.note(name), note)

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
        with policy_in_words():
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
            self._write_feature("dom0", f"{STOPPED}{name}", "1")

    def started(self, name):
        """Takes that note away."""
        note = f"{STOPPED}{name}"
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
        for key in sorted(key for key in features if key.startswith(NOTE)):
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
            old, inherited = plain(getattr(self.app, key)), self.app.property_is_default(key)
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
