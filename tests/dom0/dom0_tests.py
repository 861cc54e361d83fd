#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: PT009, PT027, N802 - of unittest, because dom0 has no pytest
"""Tests of dom0's part on a real Qubes, with qubes of its own that are offline and removed again.

    sudo python3 dom0_tests.py --really [--start] [--report FILE]
    sudo python3 dom0_tests.py --clean      removes what a killed run left

--really  makes the qubes in NAMES, which must not be there yet, and tests on them
--start   also starts three of them, for a minute (1.2 GB of memory)
--report  new file for what came of it: names of tests, words, seconds; nothing of your machine
--utils   folder with the formula's core; default: where it is installed, or beside these tests

Needs what every dom0 has: Python, qubesadmin, the formula.  Nothing is installed, no other qube is
changed: each call to qubesd that would is stopped here before it is made, and is a failure.
With pytest instead: QUBES_VPN_DOM0_TESTS=really pytest dom0_tests.py
"""

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import sys
import tempfile
import time
import traceback
import unittest
from pathlib import Path

PREFIX = "qubes-vpn-test-"
NET, VPN, FIREWALL, WORK, VAULT = (
    f"{PREFIX}{what}" for what in ("net", "vpn", "firewall", "work", "vault")
)
#: Who is removed first hangs on who comes later.
NAMES = (WORK, VAULT, FIREWALL, VPN, NET)
ENDPOINT = "192.0.2.1:51820/udp"  # nobody's (RFC 5737); these qubes have no way out anyway
UTILS = Path("/srv/salt/_utils")
#: Methods that only read, by their last part.
_READS = re.compile(r"(List\w*|Get|GetAll|GetDefault|Help|CurrentState|Info|CheckWith\w+)\Z")
#: Notes of the formula's in dom0 about a qube that it is making or stopping.
_NOTE = re.compile(r"x-qubes-vpn-(making|stopped)\.")
_CREATES = re.compile(r"admin\.vm\.Create\.(AppVM|DispVM)\Z")
_WANTED = "QUBES_VPN_DOM0_TESTS"


class Stopped(BaseException):
    """A change of somebody else's qube was stopped; no `except Exception` swallows that."""


class Fence:
    """Lets through what reads, and what changes qubes of ours.  writes: how many of the latter."""

    def __init__(self):
        self.writes = 0

    def check(self, dest, method, arg, payload):
        if _READS.match(method.rpartition(".")[2]):
            return
        about = str(dest)
        if about == "dom0" and _CREATES.match(method):
            about = _made(payload)
        elif about == "dom0" and method.startswith("admin.vm.feature."):
            about = _NOTE.sub("", arg or "", count=1)
        if about not in NAMES:
            raise Stopped(f"{method} on what is not of these tests")
        self.writes += 1

    def around(self, owner):
        """Has every connection of the class *owner* ask this fence first."""
        call, check = owner.qubesd_call, self.check

        def fenced(app, dest, method, arg=None, payload=None, *rest, **more):
            check(dest, method, arg, payload or b"")
            return call(app, dest, method, arg, payload, *rest, **more)

        owner.qubesd_call = fenced


def _made(payload):
    words = payload.decode("ascii", "replace").split()
    return next((word[5:] for word in words if word.startswith("name=")), None)


FENCE = Fence()


def setUpModule():
    """Whatever happens to a test, its qubes are removed."""
    unittest.addModuleCleanup(clean)


def _interrupt(number, _frame):
    raise KeyboardInterrupt(f"signal {number}")


def prepare(utils=None):
    """Connects and looks; ends the program with a sentence where these tests must not run."""
    here = Path(__file__).resolve().parents[2] / "_utils"
    sys.path.insert(0, str(utils or (UTILS if UTILS.is_dir() else here)))
    try:
        import qubesadmin
    except ImportError:
        sys.exit("dom0_tests: this is no dom0: there is no qubesadmin.")
    if os.geteuid() or qubesadmin.Qubes.qubesd_connection_type != "socket":
        sys.exit("dom0_tests: these tests are for root in dom0, and for nobody else.")
    try:
        import qubes_vpn_machine
    except ImportError:
        sys.exit(f"dom0_tests: the formula is not in {UTILS}. Install it first, or name --utils.")
    FENCE.around(qubesadmin.Qubes)
    return qubes_vpn_machine


def app():
    """A new connection, which has cached nothing."""
    import qubesadmin

    return qubesadmin.Qubes()


def theirs():
    """Names of qubes with our prefix that are there."""
    return sorted(vm.name for vm in app().domains if vm.name.startswith(PREFIX))


def refuse_existing():
    if theirs():
        sys.exit(
            f"dom0_tests: there are qubes called {PREFIX}... already. If a run of these tests left "
            "them (it was killed): sudo python3 dom0_tests.py --clean. Nothing was done."
        )


def refuse_strangers():
    """Before what a killed run left is removed: qubes of these names that it did not leave."""
    domains = app().domains
    for name in theirs():
        netvm = domains[name].netvm
        if name not in NAMES or (netvm is not None and netvm.name not in NAMES):
            sys.exit(
                f"dom0_tests: {name} is not of these tests, whose qubes are offline: rename it, or "
                "remove it yourself. Nothing was done."
            )


def clean():
    """Removes the qubes of these tests, and no others, whatever state they are in."""
    with _deaf():
        for name in NAMES:
            here = app()
            if name not in here.domains:
                continue
            qube = here.domains[name]
            with contextlib.suppress(Exception):
                if qube.get_power_state() != "Halted":
                    qube.kill()
            for _ in range(50):
                if qube.get_power_state() == "Halted":
                    break
                time.sleep(0.1)
            qube.netvm = None
            del here.domains[name]
        notes = app().domains["dom0"].features
        for key in [key for key in notes if _NOTE.sub("", key, count=1) in NAMES]:
            del notes[key]
    assert theirs() == [], "not all test qubes could be removed"


@contextlib.contextmanager
def _deaf():
    """A second Ctrl-C does not stop the tidying up."""
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(ValueError):
            before[number] = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make(name, **settings):
    """An offline qube from the machine's default template."""
    here = app()
    qube = here.add_new_vm("AppVM", name=name, label="gray", template=here.default_template)
    qube.netvm = None
    for key, value in settings.items():
        setattr(qube, key, value)
    return qube


def document():
    """The pillar of these tests: all of it offline, because its uplink is."""
    template = str(app().default_template)
    return {
        "topology": "custom",
        "uplink": NET,
        "tunnels": {
            VPN: {
                "kind": "wireguard",
                "profile": "test.conf",
                "endpoints": [ENDPOINT],
                "upstream": NET,
                "template": template,
                "autostart": False,
            }
        },
        "firewalls": {FIREWALL: {"upstream": VPN, "autostart": False, "template": template}},
        "routes": {"default": "keep", "qubes": {WORK: FIREWALL}},
        "vaults": [VAULT],
    }


class Formula:
    """dom0's steps for :func:`document`, those about qubes of ours alone."""

    def __init__(self, folder, root="/"):
        import qubes_vpn_record

        self.folder, self.root = folder, root
        self._record = qubes_vpn_record

    def steps(self):
        import qubes_vpn_model
        import qubes_vpn_plan

        model, problems = qubes_vpn_model.read(document())
        assert not problems, "the tests' own pillar is refused"
        steps = qubes_vpn_plan.plan(model)
        return [step for step in steps if step.args["name"] in NAMES or step.state == "named"]

    def undo(self):
        import qubes_vpn_undo

        return qubes_vpn_undo.plan(self._record.read(self.folder), "first", True)

    def run(self, steps, dry=False):
        """``{step's id: changes}`` of the steps that changed something."""
        import qubes_vpn_dom0
        import qubes_vpn_machine
        import qubes_vpn_qubesd

        machine = qubes_vpn_machine.Machine(
            qubes_vpn_qubesd.connect(),
            dry=dry,
            record=self._record.Record(self.folder),
            root=self.root,
        )
        done = {}
        for step in steps:
            qubes_vpn_dom0.run(machine, step.state, step.args, done.setdefault(step.id, {}))
        return {name: changes for name, changes in done.items() if changes}


def others():
    """What all other qubes and dom0 are set to: what no test may change."""
    here = app()
    keys = ("netvm", "template", "label", "autostart", "provides_network", "default_dispvm")
    found = {
        name: [(key, str(getattr(qube, key, None))) for key in keys]
        for name, qube in ((vm.name, vm) for vm in here.domains)
        if name not in NAMES and name != "dom0"
    }
    globals_ = ("default_netvm", "default_dispvm", "updatevm", "clockvm", "management_dispvm")
    return found, [(key, str(getattr(here, key))) for key in globals_]


class Qubes(unittest.TestCase):
    """What the formula counts on in Qubes itself."""

    @classmethod
    def setUpClass(cls):
        make(NET, provides_network=True)
        make(WORK)
        cls.addClassCleanup(clean)

    def setUp(self):
        app().domains[WORK].netvm = None

    def refused(self, name, key, value):
        import qubesadmin.exc

        qube = app().domains[name]
        was = str(getattr(qube, key))
        with self.assertRaises(qubesadmin.exc.QubesException):
            setattr(qube, key, value)
        self.assertEqual(str(getattr(app().domains[name], key)), was)

    def test_offline_is_a_choice_and_not_inherited(self):
        qube = app().domains[WORK]
        self.assertIsNone(qube.netvm)
        self.assertFalse(qube.property_is_default("netvm"))

    def test_a_netvm_has_to_provide_network(self):
        make(VAULT)
        self.refused(WORK, "netvm", VAULT)

    def test_netvms_in_a_loop_are_refused(self):
        app().domains[WORK].netvm = NET
        app().domains[WORK].provides_network = True
        try:
            self.refused(NET, "netvm", WORK)
        finally:
            app().domains[WORK].provides_network = False

    def test_who_has_clients_goes_on_providing_network(self):
        app().domains[WORK].netvm = NET
        self.refused(NET, "provides_network", False)

    def test_a_firewall_list_comes_back_as_the_plan_writes_it(self):
        rules = b"action=accept dst4=192.0.2.1/32 proto=udp dstports=51820-51820\naction=drop\n"
        here = app()
        here.qubesd_call(WORK, "admin.vm.firewall.Set", None, rules)
        self.assertEqual(here.qubesd_call(WORK, "admin.vm.firewall.Get"), rules)

    def test_a_wrong_rule_changes_no_list(self):
        import qubesadmin.exc

        here = app()
        before = here.qubesd_call(WORK, "admin.vm.firewall.Get")
        with self.assertRaises(qubesadmin.exc.QubesException):
            here.qubesd_call(WORK, "admin.vm.firewall.Set", None, b"action=accept dsthost=*.x\n")
        self.assertEqual(app().qubesd_call(WORK, "admin.vm.firewall.Get"), before)

    def test_a_service_is_a_feature_that_comes_and_goes(self):
        app().domains[WORK].features["service.qubes-vpn"] = "1"
        self.assertEqual(app().domains[WORK].features.get("service.qubes-vpn"), "1")
        del app().domains[WORK].features["service.qubes-vpn"]
        self.assertIsNone(app().domains[WORK].features.get("service.qubes-vpn"))


class Dom0Part(unittest.TestCase):
    """dry run, run, second run, drift, what is refused, undo: in this order, on one machine."""

    root = "/"

    @classmethod
    def setUpClass(cls):
        cls.before = others()
        make(NET, provides_network=True)
        make(WORK)
        make(VAULT)
        folder = tempfile.TemporaryDirectory(prefix="qubes-vpn-test-")
        cls.addClassCleanup(folder.cleanup)
        cls.addClassCleanup(clean)
        cls.formula = Formula(Path(folder.name, "record"), cls.root)

    def run_counted(self, steps, dry=False):
        before = FENCE.writes
        done = self.formula.run(steps, dry)
        return done, FENCE.writes - before

    def test_1_a_dry_run_tells_and_writes_nothing(self):
        done, writes = self.run_counted(self.formula.steps(), dry=True)
        self.assertTrue(done)
        self.assertEqual(writes, 0)
        self.assertNotIn(VPN, app().domains)

    def test_2_a_run_does_it(self):
        self.run_counted(self.formula.steps())
        here = app()
        chain = {name: str(here.domains[name].netvm) for name in (WORK, FIREWALL, VPN)}
        self.assertEqual(chain, {WORK: FIREWALL, FIREWALL: VPN, VPN: NET})
        self.assertIsNone(here.domains[VAULT].netvm)
        self.assertTrue(here.domains[VPN].provides_network)
        self.assertEqual(here.domains[VPN].features.get("service.qubes-vpn"), "1")
        rules = here.qubesd_call(VPN, "admin.vm.firewall.Get").decode().splitlines()
        self.assertEqual(len(rules), 2)
        self.assertIn("dst4=192.0.2.1/32", rules[0])
        self.assertEqual(rules[1], "action=drop")

    def test_3_a_second_run_is_silent(self):
        self.assertEqual(self.run_counted(self.formula.steps()), ({}, 0))

    def test_4_what_was_changed_by_hand_is_told_and_put_right(self):
        app().domains[WORK].netvm = None
        app().qubesd_call(VPN, "admin.vm.firewall.Set", None, b"action=accept\n")
        told, writes = self.run_counted(self.formula.steps(), dry=True)
        self.assertEqual((len(told), writes), (2, 0))
        done, _ = self.run_counted(self.formula.steps())
        self.assertEqual(done.keys(), told.keys())
        self.assertEqual(str(app().domains[WORK].netvm), FIREWALL)
        self.assertEqual(self.run_counted(self.formula.steps()), ({}, 0))

    def test_5_nobody_is_let_out_past_the_tunnel(self):
        from qubes_vpn_qubesd import Refused

        (move,) = (
            step
            for step in self.formula.steps()
            if step.state == "netvm" and step.args["name"] == WORK
        )
        past = move._replace(args={**move.args, "netvm": NET})
        with self.assertRaises(Refused):
            self.run_counted([past])
        self.assertEqual(str(app().domains[WORK].netvm), FIREWALL)

    def test_6_an_undo_puts_everything_back(self):
        steps = self.formula.undo()
        told, writes = self.run_counted(steps, dry=True)
        self.assertEqual((bool(told), writes), (True, 0))
        self.run_counted(steps)
        here = app()
        self.assertIsNone(here.domains[WORK].netvm)
        self.assertEqual([name for name in (VPN, FIREWALL) if name in here.domains], [])
        self.assertEqual(self.run_counted(self.formula.undo()), ({}, 0))

    def test_7_no_other_qube_was_changed(self):
        self.assertEqual(others(), self.before)


class Reading(unittest.TestCase):
    """What reads the whole machine gets through it, and leaves it alone."""

    root = "/"

    def look(self, what):
        from qubes_vpn_machine import Machine
        from qubes_vpn_qubesd import connect

        before = FENCE.writes
        found = what(Machine(connect(), dry=True, root=self.root))
        self.assertEqual(FENCE.writes, before)
        return found

    def test_inventory(self):
        import qubes_vpn_inventory

        taken = self.look(lambda machine: qubes_vpn_inventory.take(machine, {}))
        self.assertTrue(taken["qubes"])
        json.dumps(taken)

    def test_audit(self):
        import qubes_vpn_audit
        import qubes_vpn_finding
        import qubes_vpn_inventory

        taken = self.look(lambda machine: qubes_vpn_inventory.take(machine, {}))
        report = qubes_vpn_audit.audit(taken, None)
        self.assertTrue(qubes_vpn_finding.text(report))

    def test_table(self):
        import qubes_vpn_network
        import qubes_vpn_table

        rows = self.look(lambda machine: qubes_vpn_table.rows(qubes_vpn_network.look(machine), {}))
        self.assertTrue(qubes_vpn_table.text(rows))


class Started(unittest.TestCase):
    """With qubes that run; only with --start."""

    wanted = False

    @classmethod
    def setUpClass(cls):
        if not cls.wanted:
            raise unittest.SkipTest("not asked for: --start")
        cls.addClassCleanup(clean)
        make(NET, provides_network=True, memory=400, maxmem=400)
        make(VPN, provides_network=True, memory=400, maxmem=400).netvm = NET
        make(WORK, memory=400, maxmem=400).netvm = NET
        app().domains[VPN].start()
        app().domains[WORK].start()

    def test_1_a_netvm_is_started_with_its_client(self):
        self.assertTrue(app().domains[NET].is_running())

    def test_2_who_runs_is_moved_to_who_runs(self):
        app().domains[WORK].netvm = VPN
        self.assertEqual(str(app().domains[WORK].netvm), VPN)

    def test_3_a_running_qube_is_asked_and_answers(self):
        import qubes_vpn_ask
        from qubes_vpn_qubesd import connect

        told = qubes_vpn_ask.ask(connect(), WORK, "qubes.VMExec+id", b"", seconds=60)
        self.assertTrue(told.startswith(b"uid=0"))

    def test_4_who_does_not_have_the_service_says_nothing(self):
        import qubes_vpn_ask
        from qubes_vpn_qubesd import connect

        with self.assertRaisesRegex(qubes_vpn_ask.NoAnswer, "has no service"):
            qubes_vpn_ask.ask(connect(), WORK, "qubes-vpn.Status", b"", seconds=60)


class Results(unittest.TextTestResult):
    """Also as data, without anything of the machine."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.rows, self._begun = [], {}

    def startTest(self, test):
        self._begun[test.id()] = time.monotonic()
        super().startTest(test)

    def _row(self, test, result, error=None):
        name = getattr(test, "description", test.id()).split(".", 1)[-1]
        name = re.sub(r"[^A-Za-z0-9_. ]", "", name)[:100]
        seconds = round(time.monotonic() - self._begun.get(test.id(), time.monotonic()), 1)
        where = _where(error) if error else []
        self.rows.append({"test": name, "result": result, "seconds": seconds, "where": where})

    def addSuccess(self, test):
        super().addSuccess(test)
        self._row(test, "passed")

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self._row(test, "failed", error)

    def addError(self, test, error):
        super().addError(test, error)
        self._row(test, "error", error)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._row(test, "not run")


def _where(error):
    """Class of an exception, and where in the formula's own files it came by; not its text."""
    kind, _, trace = error
    frames = [(Path(frame.filename).name, frame.lineno) for frame in traceback.extract_tb(trace)]
    ours = [
        f"{name}:{line}" for name, line in frames if re.match(r"(qubes_vpn|dom0_)\w*\.py", name)
    ]
    return [kind.__name__, *ours]


def report(rows):
    """What may be sent to strangers."""
    release = Path("/etc/qubes-release")
    text = release.read_text("ascii", "replace") if release.exists() else ""
    found = re.search(r"R?(\d+\.\d+)", text)
    return {
        "report": "qubes-vpn dom0 tests, 1",
        "qubes": found[1] if found else "unknown",
        "python": platform.python_version(),
        "tests": rows,
    }


def main(words=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for flag in ("--really", "--start", "--clean"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--utils", type=Path)
    parser.add_argument("--root", default="/", help="where dom0's files are (default: /)")
    given = parser.parse_args(words)
    if not given.really and not given.clean:
        parser.error("nothing is done without --really. Read what it does: --help")
    prepare(given.utils)
    if given.clean:
        refuse_strangers()
        clean()
        return 0
    refuse_existing()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    Started.wanted, Dom0Part.root, Reading.root = given.start, given.root, given.root
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(given.report.open("x")) if given.report else None
        except OSError as error:
            sys.exit(f"dom0_tests: {given.report}: {error.strerror}. Name a new file.")
        tests = unittest.defaultTestLoader.loadTestsFromModule(sys.modules[__name__])
        runner = unittest.TextTestRunner(resultclass=Results, verbosity=2)
        try:
            result = runner.run(tests)
        except KeyboardInterrupt as stopped:
            clean()
            print(f"dom0_tests: stopped by {stopped or 'Ctrl-C'}; all is removed", file=sys.stderr)
            return 1
        if file:
            json.dump(report(result.rows), file, indent=1)
            file.write("\n")
    return 0 if result.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
elif os.environ.get(_WANTED) == "really":  # by pytest
    prepare()
    refuse_existing()
else:
    raise unittest.SkipTest(f"only in dom0, and with {_WANTED}=really: it makes qubes")
