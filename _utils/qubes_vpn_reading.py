# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's qubes as they are, or as a dry run would have left them: bulk reads."""

import contextlib
import time

import qubesadmin
import qubesadmin.exc
import qubesadmin.firewall

import qubes_vpn_passing
import qubes_vpn_qvm_template
from qubes_vpn_policy import NotPolicy, Policy
from qubes_vpn_qubesd import INHERITED, Refused, plain, shown

#: Features of dom0 that note which qubes are being made: cloning, for one, takes many calls, and
#: what an interrupted run leaves looks like any other qube.
NOTE = "x-qubes-vpn-"
_MAKING = f"{NOTE}making."
#: The same of what is shut down and will be started again.
STOPPED = f"{NOTE}stopped."
#: Bytes of a volume that hold no system and nobody's files: what a pool may need for itself.
_NOTHING = 1024**2
#: What no two qubes have in common.
_IDENTITY = {"name", "qid", "uuid", "label"}
#: Power states in which a qube is on and does not go on: neither does a change of its netvm.
FROZEN = ("Paused", "Suspended")
_NOT_PRETENDED = object()
#: Seconds for which nobody asks again who is there and who runs.
_FRESH = 1


class Reading:
    """dom0's view of the qubes, which asks and changes nothing.

    app: a ``qubesadmin.Qubes``.  dry: whether it is of what a run would leave, once
    :class:`qubes_vpn_machine.Machine` has pretended it.  root: where dom0's files are.
    """

    def __init__(self, app, dry=False, root="/"):
        self.app = app
        self.app.cache_enabled = True  # one GetAll for each qube instead of forty Gets
        # Before anything names dom0, whose class the list has and qubesadmin cannot ask for alone.
        self.app.domains.refresh_cache()
        self.dry = dry
        self._pretended = {}  # of a dry run: (name, key) -> value; ("", name) -> class
        self._pretended_default = None
        self._wiring = None  # of a dry run, see wiring
        self._pretended_globals = {}
        self._pretended_policy = ()  # a text, or None, once there is one
        self.root = root
        self._policy = Policy(root, self._named_by)
        self._unfinished = None  # see unfinished
        self._notes = None  # see _noted_as
        self._features = {}  # name -> names of its features, see has_feature
        self._new = set()  # (name, what) that a qube made by this run has as every new qube
        self._looked = None  # when, see look_again
        self._power = {}  # name -> state, where it is newer than what qubesadmin goes on showing
        self._gone = set()  # names of what qubesadmin goes on showing after it was discarded

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
            return plain(vm.property_get_default(key))
        heir = key == "netvm" and self._pretended_default and vm.klass != "TemplateVM"
        if heir and vm.property_is_default("netvm"):
            return self._pretended_default[0]
        try:
            return plain(getattr(vm, key))
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
        return sorted(self._noted_as(STOPPED))

    def bypasses(self):
        """Names of the disposables that may go past the VPN for a while, sorted."""
        return sorted(self._noted_as(qubes_vpn_passing.NOTE))

    def noted(self, name):
        """What the note of a qube that is being made says."""
        return self.feature("dom0", self.note(name))

    def note(self, name):
        """The feature of dom0 that says of a qube that it is being made."""
        return f"{_MAKING}{name}"

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

    def shown(self, name, key):
        """A property's value as `changes` show it: an inherited netvm is told from a chosen one."""
        value = shown(self.value(name, key))
        return f"{value} (inherited)" if key == "netvm" and self.inherits(name, key) else value

    def uuid(self, name):
        """What tells this qube from a later one of its name."""
        if not (found := self.value(name, "uuid")) and ("", name) not in self._pretended:
            raise Refused(f"{name}: qubesd does not say which one it is (uuid). Run this again.")
        return found

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

    def forget_names(self):
        """Forgets which qubes there are and run: another connection or process changed that."""
        self._looked = None
        self.app.domains.clear_cache()

    def _is_there(self, name):
        self.forget_names()
        return name in self.app.domains

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
        return plain(getattr(self.app, key))

    def default_netvm(self):
        """Name of dom0's default_netvm, or None."""
        if self._pretended_default:
            return self._pretended_default[0]
        return plain(self.app.default_netvm)

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
        with policy_in_words():
            return (
                self._policy.current() if self._pretended_policy == () else self._pretended_policy
            )

    def added_to_policy(self):
        """Where the formula's own policy file has a line of somebody else's; None: nowhere."""
        with policy_in_words():
            return self._policy.added()

    def policy(self, ours=None):
        """The rules for templates' updates, with *ours* in place of what our file has."""
        with policy_in_words():
            return self._policy.rules(self._pretended_policy if ours is None else ours)

    def policy_lines(self):
        """The same by file, as lines: ``{name: [line]}``."""
        return self._policy.lines()

    def installing(self):
        """Whether a template is being installed, by us or by somebody else."""
        return qubes_vpn_qvm_template.busy(self.root)

    def _named_by(self, uuid):
        found = (name for name in self.names() if self.value(name, "uuid") == uuid)
        return next(found, None)


@contextlib.contextmanager
def policy_in_words():
    """Turns a policy that cannot be read or written into :class:`Refused`."""
    try:
        yield
    except NotPolicy as error:
        raise Refused(f"{error}. Templates' updates are as they were.") from error
