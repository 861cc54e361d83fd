# SPDX-License-Identifier: GPL-2.0-or-later
"""One disposable past the VPN for some minutes, and never longer, whatever happens (R05, R67).

systemd, xl and qvm-kill are stand-ins on the embedded Qubes, see dom0_programs.py; the program that
ends a bypass is the real one.  That a real systemd runs it in time is not shown here.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disturbed import disturb
from pillars import PILLARS
from snapshots import compared, in_clear, put_back

from qubes_vpn_formula.embedded import front
from qubes_vpn_formula.embedded.qubesd.method import writes

pytestmark = pytest.mark.one_salt
# The core is not installed beside Salt 3006.
qubes_vpn_model = pytest.importorskip("qubes_vpn_model", reason="needs the core installed")
import qubes_vpn_record  # noqa: E402 - after the line above
from qubes_vpn_formula.cli import main  # noqa: E402

NAME, NETVM = "disp-portal", "sys-firewall-novpn"
PILLAR = {
    **PILLARS["dns"],
    "firewalls": {"sys-firewall": {}, NETVM: {"upstream": "sys-net"}},
    "bypass": {"netvm": NETVM, "template": "default-dvm"},
}
#: Whatever ends it, other than that it has done its work; at once is not too often for systemd.
RESTARTED = ("Type=notify", "Restart=always", "RestartSec=5", "RestartPreventExitStatus=0")
OPEN, CLOSED = "bypass opened", "bypass closed"
PROGRAMS = ("systemd-run", "systemctl", "xl", "qvm-kill", "qvm-prefs", "qvm-features")


#: A machine as the pillar says, and its record: made once.
_READY = {}


class Dom0:
    """dom0 with its programs, and the formula's functions on it."""

    def __init__(self, embedded, folder, record):
        self.embedded, self.folder, self.record = embedded, folder, Path(record)

    def machine(self, dry=False):
        import qubes_vpn_machine
        import qubes_vpn_qubesd

        record = qubes_vpn_record.Record(self.record)
        return qubes_vpn_machine.Machine(qubes_vpn_qubesd.connect(), dry=dry, record=record)

    def open(self, minutes=None, pillar=PILLAR, dry=False):
        import qubes_vpn_bypass

        model = qubes_vpn_model.build(pillar)
        return qubes_vpn_bypass.opened(self.machine(dry), model, minutes, "joanna")

    def close(self):
        import qubes_vpn_bypass

        changes = {}
        qubes_vpn_bypass.closed(self.machine(), changes, "bypass", "joanna")
        return changes

    def told(self):
        import qubes_vpn_bypass

        return qubes_vpn_bypass.told(self.machine(dry=True))

    def unit(self):
        """What systemd was told, or None."""
        file = self.folder / "unit"
        return json.loads(file.read_text()) if file.exists() else None

    def arm(self, unit):
        """Makes what systemd has another one; None: none."""
        (self.folder / "unit").unlink(missing_ok=True)
        if unit:
            (self.folder / "unit").write_bytes(unit)

    def fire(self, *clocks):
        """The time is over: what systemd runs; its exit code.

        clocks: seconds that are left by the one that nobody can set, and by the wall's.
        """
        return subprocess.run(
            [sys.executable, "-I", "-c", due(self.unit()[-1], *clocks)], check=False, timeout=60
        ).returncode

    def state(self, state):
        """What systemd says of it from now on."""
        (self.folder / "state").write_text(state)

    def broken(self, *programs):
        for program in programs:
            (self.folder / f"no-{program}").touch()

    def mended(self):
        for file in self.folder.glob("no-*"):
            file.unlink()

    def events(self):
        return [(e["event"], e["by"]) for e in qubes_vpn_record.events(self.lines(), NAME)]

    def lines(self):
        return qubes_vpn_record.read(self.record)

    def qube(self):
        return self.embedded.snapshot()["qubes"].get(NAME)

    def notes(self):
        features = self.embedded.snapshot()["qubes"]["dom0"]["features"]
        return [key for key in features if "bypass" in key]


@pytest.fixture
def dom0(loaders, states, embedded, tmp_path, monkeypatch):
    """A machine as the pillar says, with nothing open."""
    folder = tmp_path / "programs"
    (folder / "bin").mkdir(parents=True)
    path = os.pathsep.join([str(front.FOLDER), str(Path(front.__file__).parents[3])])
    stand_in = Path(__file__).with_name("dom0_programs.py")
    for program in PROGRAMS:
        file = folder / "bin" / program
        text = f'PYTHONPATH={path} exec {sys.executable} {stand_in} {program} "$@"'
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
    monkeypatch.setenv("DOM0_PROGRAMS", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    record = Path(loaders.opts["qubes_vpn_folder"])
    if not _READY:
        assert all(state.result for state in states.run(PILLAR).values())
        _READY["machine"] = embedded.path.read_bytes()
        _READY["record"] = (record / "record.jsonl").read_bytes()
    record.mkdir(mode=0o700, exist_ok=True)
    (record / "record.jsonl").write_bytes(_READY["record"])
    put_back(embedded, _READY["machine"])
    return Dom0(embedded, folder, record)


def due(text, boot=0, wall=0):
    """What systemd runs, with so many seconds left by either clock."""
    ends = time.clock_gettime(time.CLOCK_BOOTTIME) + boot, time.time() + wall
    text, found = re.subn(r"\(\d+, \d+\)(?=, '[^']*', '[^']*'\)\s*$)", repr(ends), text)
    assert found == 1
    return text


def made_by_somebody(embedded, klass, label="blue", start=True):
    """A qube of the bypass' name that is not ours."""
    template = "default-dvm" if klass == "DispVM" else ""
    values = f"name={NAME} label={label}".encode()
    embedded.call("dom0", f"admin.vm.Create.{klass}", template, values)
    if start:
        embedded.call(NAME, "admin.vm.Start")


def is_held(qube):
    """Whether a qube that is in clear reaches DNS and the web alone, and that for minutes."""
    *opened, last = qube["rules"]
    words = [set(rule.split()) for rule in opened]
    ends = [int(w.removeprefix("expire=")) for rule in words for w in rule if "expire=" in w]
    plain = [frozenset(w for w in rule if "expire=" not in w) for rule in words]
    return (
        last == "action=drop"
        and len(ends) == len(opened)
        and all(end <= time.time() + 15 * 60 for end in ends)
        and set(plain)
        == {
            frozenset({"action=accept", "specialtarget=dns"}),
            frozenset({"action=accept", "proto=tcp", "dstports=80-80"}),
            frozenset({"action=accept", "proto=tcp", "dstports=443-443"}),
        }
    )


def test_it_is_opened_as_the_pillar_says_and_as_nothing_else(dom0, embedded):
    """R05."""
    before = compared(embedded.snapshot())
    said = dom0.open(minutes=10)
    assert f"{NAME} -> {NETVM} -> sys-net" in said
    qube = dom0.qube()
    assert (qube["klass"], qube["power"]) == ("DispVM", "Running")
    has = qube["properties"]
    assert (has["netvm"], has["auto_cleanup"], has["label"]) == (NETVM, True, "red")
    assert (has["default_dispvm"], has.get("autostart", False)) == (None, False)
    assert is_held(qube)
    assert in_clear(embedded.snapshot()) == {NAME}
    after = compared(embedded.snapshot())
    after["qubes"].pop(NAME)
    after["qubes"][NETVM]["power"] = before["qubes"][NETVM]["power"]
    after["qubes"]["sys-net"]["power"] = before["qubes"]["sys-net"]["power"]
    assert after == before
    (event,) = qubes_vpn_record.events(dom0.lines())
    assert event.pop("at")
    assert event == {
        "event": OPEN,
        "of": NAME,
        "by": "joanna",
        "netvm": NETVM,
        "minutes": 10,
    }


def test_the_timer_ends_it(dom0, embedded):
    before = compared(embedded.snapshot())["qubes"].keys()
    dom0.open()
    assert dom0.fire() == 0
    assert compared(embedded.snapshot())["qubes"].keys() == before
    assert dom0.events() == [(OPEN, "joanna"), (CLOSED, "timer")]
    assert "bypass closed by timer" in dom0.told()
    dom0.close()  # tidies up, and tells nothing twice
    assert (dom0.notes(), len(dom0.events())) == ([], 2)


def test_the_timer_ends_it_without_qubesd(dom0):
    """qvm-kill needs qubesd; Xen does not."""
    dom0.open()
    dom0.broken("qvm-kill")
    assert dom0.fire() == 0
    assert dom0.qube() is None


@pytest.mark.parametrize("broken", [("qvm-kill", "xl"), ("xl",)])
def test_what_is_not_known_to_be_off_is_tried_again(dom0, broken):
    """systemd starts it again until it succeeds."""
    dom0.open()
    dom0.broken(*broken)
    assert dom0.fire() == 1
    assert {f"--property={each}" for each in RESTARTED} <= {*dom0.unit()}
    dom0.mended()
    assert dom0.fire() == 0
    assert dom0.qube() is None


def test_the_timer_needs_nothing_of_the_formula(dom0, tmp_path):
    """Salt's copy of the formula may be gone by then; what systemd has is the whole program."""
    dom0.open()
    *_, text = dom0.unit()
    assert "$" not in text  # systemd would put a variable there
    text = due(text)
    call = text.rstrip().splitlines()[-1]
    code = call.rpartition(", ")[2].strip("')")
    assert (Path(code) / "qubes_vpn_record.py").exists()
    alone = text.replace(code, str(tmp_path / "nothing"))
    assert subprocess.run([sys.executable, "-IS", "-c", alone], check=False).returncode == 0
    assert dom0.qube() is None
    dom0.close()
    assert dom0.events() == [(OPEN, "joanna"), (CLOSED, "itself")]


def test_two_clocks_end_it(dom0):
    """Nobody can set the one, which goes on while the machine sleeps; the other is the wall's."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
    dom0.open(minutes=3)
    ends = re.search(r"\((\d+), (\d+)\), '[^']*', '[^']*'\)\s*$", dom0.unit()[-1])
    for then, end, now in zip(
        before, ends.groups(), (time.clock_gettime(time.CLOCK_BOOTTIME), time.time()), strict=True
    ):
        assert then + 179 <= int(end) <= now + 180
    began = time.monotonic()
    assert dom0.fire(0.5, 1000) == 0  # slept, and the wall's clock was set back
    assert (dom0.qube(), time.monotonic() - began < 30) == (None, True)
    dom0.close()
    dom0.open()
    assert dom0.fire(1000, 0) == 0
    assert dom0.qube() is None


def test_it_waits_for_its_time(dom0):
    dom0.open()
    waiting = subprocess.Popen([sys.executable, "-I", "-c", dom0.unit()[-1]])
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.7)
    finally:
        waiting.kill()
        waiting.wait()
    assert dom0.qube()["power"] == "Running"


def test_it_is_closed_by_hand(dom0, embedded):
    before = compared(embedded.snapshot())["qubes"].keys()
    dom0.open()
    assert NAME in dom0.close()
    assert compared(embedded.snapshot())["qubes"].keys() == before
    assert (dom0.unit(), dom0.notes()) == (None, [])
    assert dom0.events() == [(OPEN, "joanna"), (CLOSED, "joanna")]
    assert dom0.close() == {}
    dom0.open()  # and opened again
    assert in_clear(embedded.snapshot()) == {NAME}


def test_after_dom0s_restart_it_is_gone(dom0, embedded):
    """Everything is off then; Qubes' cleanup-dispvms removes what has auto_cleanup."""
    dom0.open()
    embedded.call(NAME, "admin.vm.Kill")
    (dom0.folder / "unit").unlink()  # it was in /run
    assert dom0.qube() is None
    assert dom0.told().startswith("No bypass is open.")
    dom0.open()
    assert dom0.events() == [(OPEN, "joanna"), (CLOSED, "itself"), (OPEN, "joanna")]


def test_a_dry_run_opens_nothing(dom0, embedded):
    state = embedded.path.read_bytes()
    assert dom0.open(dry=True).startswith(f"Would let {NAME} past the VPN for 15 minutes")
    assert (embedded.path.read_bytes(), dom0.unit()) == (state, None)


def test_another_name_in_the_pillar_does_not_take_the_timer_from_the_first(dom0, embedded):
    """There is one timer, and it names one qube."""
    import qubes_vpn_qubesd

    dom0.open()
    timer = dom0.unit()
    other = {**PILLAR, "bypass": {**PILLAR["bypass"], "name": "disp-hotel"}}
    with pytest.raises(qubes_vpn_qubesd.Refused, match=f"a bypass is open: {NAME}"):
        dom0.open(pillar=other)
    assert (dom0.unit(), in_clear(embedded.snapshot())) == (timer, {NAME})
    dom0.close()
    dom0.open(pillar=other)
    assert in_clear(embedded.snapshot()) == {"disp-hotel"}


def test_its_netvm_is_on_before_the_time_runs(dom0, embedded):
    """Else the timer may be over, and content, before there is anything to end."""
    for name in (NETVM, "sys-net"):
        if embedded.snapshot()["qubes"][name]["power"] != "Halted":
            embedded.call(name, "admin.vm.Kill")
    dom0.broken("systemd-run")
    with pytest.raises(Exception, match="so it is not opened"):
        dom0.open()
    qubes = embedded.snapshot()["qubes"]
    assert {qubes[name]["power"] for name in (NETVM, "sys-net")} == {"Running"}


def test_what_starts_after_its_time_is_closed_again(dom0, embedded, monkeypatch):
    import qubes_vpn_machine
    import qubes_vpn_qubesd

    start = qubes_vpn_machine.Machine.start

    def late(machine, name, changes):
        if name == NAME:
            assert dom0.fire() == 0  # Xen has no such qube yet
            dom0.arm(None)
        return start(machine, name, changes)

    monkeypatch.setattr(qubes_vpn_machine.Machine, "start", late)
    with pytest.raises(qubes_vpn_qubesd.Refused, match="its time was over"):
        dom0.open(minutes=1)
    assert (dom0.qube(), dom0.notes()) == (None, [])
    assert dom0.events() == [(OPEN, "joanna"), (CLOSED, "failure")]


def test_closed_while_it_is_being_opened_it_keeps_what_ends_it(dom0, embedded, monkeypatch):
    """By somebody else, or a run, before there is such a qube; who is told to look again."""
    import qubes_vpn_bypass
    import qubes_vpn_qubesd

    make = qubes_vpn_bypass._make

    def late(*arguments):
        with pytest.raises(qubes_vpn_qubesd.Refused, match="somebody else opens or closes"):
            dom0.close()
        assert dom0.unit()
        make(*arguments)

    monkeypatch.setattr(qubes_vpn_bypass, "_make", late)
    dom0.open()
    assert (in_clear(embedded.snapshot()), dom0.fire(), dom0.qube()) == ({NAME}, 0, None)


def test_closed_while_it_is_being_started_it_is_killed_at_once(dom0, embedded, monkeypatch):
    """Also when nobody knows how long the opening takes."""
    import qubes_vpn_machine
    import qubes_vpn_qubesd

    start = qubes_vpn_machine.Machine.start

    def late(machine, name, changes):
        start(machine, name, changes)
        if name == NAME:
            with pytest.raises(qubes_vpn_qubesd.Refused, match="What was open is closed"):
                dom0.close()
            assert dom0.qube() is None

    monkeypatch.setattr(qubes_vpn_machine.Machine, "start", late)
    dom0.open()
    assert dom0.qube() is None
    dom0.close()
    assert (dom0.unit(), dom0.notes()) == (None, [])


def test_two_do_not_open_one_at_once(dom0, embedded, monkeypatch):
    """The second would take away what ends the first."""
    import qubes_vpn_bypass
    import qubes_vpn_qubesd

    make = qubes_vpn_bypass._make

    def second(*arguments):
        writes, unit = embedded.writes(), dom0.unit()
        with pytest.raises(qubes_vpn_qubesd.Refused, match="so none is opened"):
            dom0.open()
        assert (embedded.writes(), dom0.unit()) == (writes, unit)
        make(*arguments)

    monkeypatch.setattr(qubes_vpn_bypass, "_make", second)
    dom0.open()
    assert dom0.events() == [(OPEN, "joanna")]


def test_what_ended_by_itself_leaves_nothing_that_would_end_another(dom0, embedded):
    dom0.open()
    embedded.call(NAME, "admin.vm.Kill")
    dom0.close()
    assert (dom0.unit(), dom0.notes()) == (None, [])
    assert dom0.events()[-1] == (CLOSED, "itself")


@pytest.mark.parametrize("klass", ["AppVM", "DispVM"])
def test_what_ends_it_knows_its_qube(dom0, embedded, klass):
    """It died, and somebody made another one of that name before the time was over."""
    dom0.open()
    embedded.call(NAME, "admin.vm.Kill")
    made_by_somebody(embedded, klass)
    assert (dom0.fire(), dom0.qube()["power"]) == (0, "Running")
    assert dom0.events() == [(OPEN, "joanna")]


@pytest.mark.parametrize("broken", ["qvm-prefs", "qvm-features"])
def test_what_cannot_be_told_apart_is_ended(dom0, embedded, broken):
    dom0.open()
    embedded.call(NAME, "admin.vm.Kill")
    made_by_somebody(embedded, "AppVM")
    dom0.broken(broken)
    assert (dom0.fire(), dom0.qube()["power"]) == (0, "Halted")


@pytest.mark.parametrize(
    ("label", "is_on"), [("blue", False), ("red", True)], ids=["another label", "it runs"]
)
def test_a_note_without_a_uuid_makes_nobodys_qube_ours(dom0, states, embedded, label, is_on):
    """An opening was killed before it had made one; then somebody made one of that name."""
    import qubes_vpn_qubesd

    embedded.call("dom0", "admin.vm.feature.Set", f"x-qubes-vpn-bypass.{NAME}", b"1")
    made_by_somebody(embedded, "DispVM", label, is_on)
    uuid = dom0.qube()["properties"]["uuid"]
    assert dom0.told().startswith("No bypass is open.")
    with pytest.raises(qubes_vpn_qubesd.Refused, match="not the formula's, so it is left alone"):
        dom0.open()
    embedded.call("dom0", "admin.vm.feature.Set", f"x-qubes-vpn-bypass.{NAME}", b"1")
    assert all(state.result is not False for state in states.run(PILLAR).values())
    dom0.close()
    assert dom0.notes() == []
    assert dom0.qube()["properties"]["uuid"] == uuid
    assert dom0.qube()["power"] == ("Running" if is_on else "Halted")


@pytest.mark.parametrize("before", ["_arm", "_make"])
def test_what_somebody_makes_while_it_is_opened_is_left_alone(dom0, embedded, monkeypatch, before):
    """Its netvm may take minutes to start."""
    import qubes_vpn_bypass
    import qubes_vpn_qubesd

    step = getattr(qubes_vpn_bypass, before)

    def late(*arguments):
        made_by_somebody(embedded, "AppVM")
        return step(*arguments)

    monkeypatch.setattr(qubes_vpn_bypass, before, late)
    with pytest.raises(qubes_vpn_qubesd.Refused, match="could not be made"):
        dom0.open()
    assert dom0.qube()["power"] == "Running"
    assert (dom0.unit(), dom0.notes()) == (None, [])


def test_what_somebody_makes_while_its_netvm_starts_is_left_alone(dom0, embedded, monkeypatch):
    import qubes_vpn_machine
    import qubes_vpn_qubesd

    start = qubes_vpn_machine.Machine.start

    def late(machine, name, changes):
        start(machine, name, changes)
        made_by_somebody(embedded, "AppVM")

    monkeypatch.setattr(qubes_vpn_machine.Machine, "start", late)
    with pytest.raises(qubes_vpn_qubesd.Refused, match="not the formula's, so it is left alone"):
        dom0.open()
    assert (dom0.qube()["power"], dom0.unit(), dom0.notes()) == ("Running", None, [])


def test_it_says_whether_it_is_being_ended_or_never_will(dom0, embedded):
    dom0.open()
    uuid, at = dom0.qube()["properties"]["uuid"], r"until (\S+ )?\d\d:\d\d"
    for seconds, states, said in (
        (60, ["active", "activating"], at),
        (-5, ["active", "activating"], f"{at}, which is over: it is being ended"),
        (60, ["inactive", "failed"], f"{at}, AND NOTHING WILL END IT: qubes_vpn.bypass close"),
        (-5, ["failed"], f"{at}, which is over, AND NOTHING WILL END IT: qubes_vpn.bypass close"),
    ):
        noted = f"{uuid} {int(time.time()) + seconds}".encode()
        embedded.call("dom0", "admin.vm.feature.Set", f"x-qubes-vpn-bypass.{NAME}", noted)
        for state in states:
            dom0.state(state)
            line = dom0.told().splitlines()[0]
            assert re.fullmatch(rf"{NAME}: running, may go past the VPN {said}", line), state


def test_what_is_just_being_started_is_closed(dom0, embedded, monkeypatch):
    """Told that it is off, and then that it is on: qubesd waits for its start."""
    import qubes_vpn_machine

    dom0.open()
    state = json.loads(embedded.path.read_text())
    state["state"]["qubes"][NAME]["power"] = "Halted"
    embedded.path.write_text(json.dumps(state))
    there, looked = qubes_vpn_machine.Machine._is_there, []

    def starting(machine, name):
        looked.append(name)
        if len(looked) == 2:
            embedded.call(NAME, "admin.vm.Start")
        return there(machine, name)

    monkeypatch.setattr(qubes_vpn_machine.Machine, "_is_there", starting)
    monkeypatch.setattr(qubes_vpn_machine, "_GOING", 3)
    dom0.close()
    assert dom0.qube() is None


@pytest.mark.parametrize("more", [[], ["x-qubes-vpn-bypass.disp-aaa"]])
def test_a_damaged_record_keeps_nobody_open(dom0, embedded, more):
    import qubes_vpn_qubesd

    dom0.open()
    for note in more:  # of one that is no more, and comes first
        embedded.call("dom0", "admin.vm.feature.Set", note, b"1")
    with (dom0.record / "record.jsonl").open("a") as file:
        file.write("rubbish\n")
    with pytest.raises(qubes_vpn_qubesd.Refused, match="is closed, but that cannot be recorded"):
        dom0.close()
    assert (dom0.qube(), dom0.unit()) == (None, None)


def test_a_damaged_record_hides_nothing_that_is_open(dom0):
    """R67."""
    import qubes_vpn_machine

    dom0.open()
    with (dom0.record / "record.jsonl").open("a") as file:
        file.write("rubbish\n")
    with pytest.raises(qubes_vpn_machine.Refused) as refused:
        dom0.told()
    first, second = str(refused.value).splitlines()
    assert first.startswith(f"{NAME}: running, may go past the VPN until ")
    assert second.startswith("Of earlier ones nobody knows: ")


@pytest.mark.parametrize("why", ["", "systemd would not end it", "it was ended half way"])
def test_what_is_closed_and_cannot_be_recorded_is_told_as_closed(dom0, monkeypatch, why):
    """By the user, or because it did not open: dom0's disk is full."""
    import qubes_vpn_bypass
    import qubes_vpn_machine

    write = qubes_vpn_record._write

    def full(file, line):
        if line.get("event") == CLOSED:
            raise OSError(28, os.strerror(28))
        write(file, line)

    monkeypatch.setattr(qubes_vpn_record, "_write", full)
    if not why:
        dom0.open()
    elif "systemd" in why:
        dom0.broken("systemd-run")
    else:
        monkeypatch.setattr(qubes_vpn_bypass, "_make", interrupted)
    with pytest.raises(qubes_vpn_machine.Refused) as refused:
        (dom0.open if why else dom0.close)()
    said = str(refused.value)
    assert said.startswith(why or NAME)
    assert f"{NAME} is closed, but that cannot be recorded: {dom0.record}/record.jsonl" in said
    assert not re.search("may still be open|nothing is replaced|run this again", said)
    assert (dom0.qube(), dom0.unit(), dom0.notes()) == (None, None, [])


# --- disturbed


def interrupted(*_):
    raise KeyboardInterrupt


def left_open(state, is_armed):
    """What is wrong with a machine, a state file, on which an opening stopped for ever."""
    snapshot = json.loads(state)["state"]
    qube, wrong = snapshot["qubes"].get(NAME), []
    if in_clear(snapshot) - {NAME}:
        wrong.append("somebody else is in clear")
    if qube is None:
        return wrong
    if not is_armed:
        wrong.append("it is there, and nothing would end it")
    if NAME in in_clear(snapshot) and not is_held(qube):
        wrong.append("it is in clear without its list")
    if qube["power"] != "Halted" and not qube["properties"].get("auto_cleanup"):
        wrong.append("it would stay when it ends")
    if not [key for key in snapshot["qubes"]["dom0"]["features"] if "bypass" in key]:
        wrong.append("nobody knows of it")
    return wrong


def disturbed(dom0, embedded, run, faults):
    """``[(case, systemd's timer)]``: an opening disturbed by faults(method) at each of its calls.

    The timer's file is the test's: each disturbance begins with the one that there was before it.
    """
    timer, timers = dom0.folder / "unit", []

    def each(_number, method):
        now = timer.read_bytes() if timer.exists() else None
        for fault in faults(method):
            yield fault
            timers.append(timer.read_bytes() if timer.exists() else None)
            dom0.arm(now)

    return list(zip(disturb(embedded, run, each), timers, strict=True))


def kills(method):
    return [{"kill": kill} for kill in ("in", "after")] if writes(method) else []


def test_killed_at_any_call_it_is_held_and_ended(dom0, embedded):
    """R92. In and after each write; then the timer, or somebody, leaves nothing on."""
    found = disturbed(dom0, embedded, lambda: dom0.open() and True, kills)
    assert {case.code for case, _timer in found} == {-9}
    assert [left_open(case.left, timer) for case, timer in found] == [[]] * len(found)
    states = dict.fromkeys((case.left, timer) for case, timer in found)
    assert sum(NAME in json.loads(state)["state"]["qubes"] for state, _timer in states) > 5
    for state, armed in states:
        if NAME not in json.loads(state)["state"]["qubes"]:
            continue
        for ending in (dom0.fire, dom0.close) if armed else (dom0.close,):
            put_back(embedded, state)
            dom0.arm(armed)
            ending()
            assert dom0.qube() is None or dom0.qube()["power"] == "Halted"
            dom0.close()
            assert (dom0.qube(), dom0.notes()) == (None, [])


def test_told_an_error_at_any_call_it_is_closed_again(dom0, embedded):
    """R92. Also by a qubesd that did the call; only what the closing itself is told stays."""
    import qubes_vpn_qubesd

    def run():
        try:
            return bool(dom0.open())
        except qubes_vpn_qubesd.Refused:
            return False

    def errors(method):
        return [{"error": "", "done": done} for done in (False, True) if writes(method)]

    found = disturbed(dom0, embedded, run, errors)
    # 99: the watch has seen it in clear, for longer than one write.
    assert {case.code for case, _timer in found} <= {1, 99}
    assert [left_open(case.left, timer) for case, timer in found] == [[]] * len(found)
    there = [case.where for case, _ in found if NAME in json.loads(case.left)["state"]["qubes"]]
    assert there == []


@pytest.mark.parametrize("program", ["systemd-run", "systemctl"])
def test_without_a_timer_nothing_is_made(dom0, embedded, program):
    import qubes_vpn_qubesd

    dom0.broken(program)
    with pytest.raises(qubes_vpn_qubesd.Refused, match="so it is not opened"):
        dom0.open()
    assert not [call for call in embedded.writes() if call.method.startswith("admin.vm.Create")]
    assert (dom0.notes(), dom0.events()[-1]) == ([], (CLOSED, "failure"))


# --- refused


@pytest.mark.parametrize(
    ("calls", "why"),
    [
        (
            [("dom0", "admin.vm.Create.AppVM", "", b"name=disp-portal label=red")],
            "there is a qube 'disp-portal', and it is not the formula's",
        ),
        ([("default-dvm", "admin.vm.property.Set", "netvm", b"sys-net")], "is in clear itself"),
        ([(NETVM, "admin.vm.property.Set", "netvm", b"sys-firewall")], "is not the pillar's way"),
        ([(NETVM, "admin.vm.feature.Set", "service.qubes-firewall", b"")], "would not enforce"),
        ([("default-dvm", "admin.vm.tag.Set", "anon-vm", b"")], "is for other things"),
        (
            [("default-dvm", "admin.vm.property.Set", "template_for_dispvms", b"False")],
            "is no template for disposables",
        ),
    ],
)
def test_what_cannot_be_held_is_not_opened(dom0, embedded, calls, why):
    import qubes_vpn_qubesd

    for call in calls:
        embedded.call(*call)
    state = embedded.path.read_bytes()
    with pytest.raises(qubes_vpn_qubesd.Refused, match=why):
        dom0.open()
    assert embedded.path.read_bytes() == state
    assert dom0.events() == []


@pytest.mark.parametrize("minutes", [0, 16, -1, "5", 2.5, True])
def test_no_longer_than_the_pillar_says(dom0, embedded, minutes):
    import qubes_vpn_qubesd

    with pytest.raises(qubes_vpn_qubesd.Refused, match="from 1 to 15"):
        dom0.open(minutes=minutes)
    assert embedded.writes() == []


def test_without_the_pillars_word_it_is_refused(dom0, embedded):
    import qubes_vpn_qubesd

    silent = {key: value for key, value in PILLAR.items() if key != "bypass"}
    with pytest.raises(qubes_vpn_qubesd.Refused, match="the pillar has no bypass"):
        dom0.open(pillar=silent)
    assert embedded.writes() == []


# --- runs


@pytest.mark.parametrize("part", ["network", "layout"])
def test_a_run_closes_it_first(dom0, states, embedded, part):
    dom0.open()
    dry = states.run(PILLAR, part, test=True)["bypass: closed"]
    assert (dry.result, [*dry.changes]) == (None, [NAME])
    assert dom0.qube() is not None
    done = states.run(PILLAR, part)
    assert next(iter(done)) == "bypass: closed"
    assert done["bypass: closed"].changes == dry.changes
    assert all(state.result for state in done.values())
    assert (dom0.qube(), dom0.unit()) == (None, None)
    assert dom0.events()[-1] == (CLOSED, "run")
    assert all(state.changes == {} for state in states.run(PILLAR, part).values())


def test_a_run_of_a_pillar_without_it_refuses(dom0, states, embedded):
    dom0.open()
    silent = {key: value for key, value in PILLAR.items() if key != "bypass"}
    (refused,) = states.run(silent).values()
    assert refused.result is False
    assert f"{NAME} may go past the VPN" in refused.comment
    dom0.close()
    assert all(state.result for state in states.run(silent).values())


def test_an_undo_leaves_none(dom0, states, embedded):
    dom0.open()
    done = states.undo()
    assert next(iter(done)) == "bypass: closed"
    assert all(state.result is not False for state in done.values())
    assert (dom0.qube(), dom0.unit(), dom0.notes()) == (None, None, [])


def test_another_qube_of_that_name_is_left_alone(dom0, embedded):
    """Made by somebody after ours was gone."""
    dom0.open()
    dom0.fire()
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=disp-portal label=red")
    embedded.call(NAME, "admin.vm.Start")
    dom0.close()
    assert dom0.qube()["power"] == "Running"


def test_the_timer_does_not_end_another_qube_of_that_name(dom0, embedded):
    """It was closed by Qubes' own means, and the name used again, before the time was over."""
    dom0.open()
    embedded.call(NAME, "admin.vm.Kill")
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=disp-portal label=red")
    assert dom0.told().startswith("No bypass is open.")
    dom0.close()
    assert (dom0.unit(), dom0.qube()["klass"]) == (None, "AppVM")


# --- told


def test_it_is_opened_told_in_red_and_closed_from_dom0(dom0, salt_call, tmp_path, capsys):
    """R67."""
    dry = salt_call("qubes_vpn.bypass", "open", "minutes=5", "test=True", pillar=PILLAR)
    assert (dry.returncode, dom0.qube()) == (0, None)
    assert dry.data.startswith(f"Would let {NAME} past the VPN for 5 minutes: ")
    done = salt_call("qubes_vpn.bypass", "open", "minutes=5")
    assert done.returncode == 0, done
    first = dom0.told().splitlines()[0]
    assert re.fullmatch(rf"{NAME}: running, may go past the VPN until (\S+ )?\d\d:\d\d", first)
    until = first.partition(" VPN ")[2]
    status = salt_call("qubes_vpn.status")
    assert status.returncode == 1
    assert status.data.splitlines()[0] == f"PAST THE VPN: {NAME}, by a bypass {until}"
    rows = salt_call("qubes_vpn.table", "form=data").data
    exits = [row["exit"] for row in rows if row["qube"] == NAME]
    assert exits == [f"IN CLEAR by sys-net, bypass {until}"]
    inventory = tmp_path / "inventory.json"
    assert salt_call("qubes_vpn.inventory", f"path={inventory}").returncode == 0
    capsys.readouterr()
    assert main(["graph", "--inventory", str(inventory)]) == 0
    # It is red: test_graph.py.
    assert f"{NAME}  in clear, bypass {until}\n" in capsys.readouterr().out
    dry = salt_call("qubes_vpn.bypass", "close", "test=True")
    assert (dry.returncode, dry.data) == (0, f"Would be closed: {NAME}.")
    assert dom0.qube()["power"] == "Running"
    odd = salt_call("qubes_vpn.bypass", "close", "minutes=5")
    assert (odd.returncode, dom0.qube()["power"]) == (1, "Running")
    assert "minutes=5: only with open" in odd.stderr
    closed = salt_call("qubes_vpn.bypass", "close")
    assert (closed.returncode, closed.data) == (0, f"Closed: {NAME}.")
    refused = salt_call("qubes_vpn.bypass", "open", "minutes=16")
    assert refused.returncode == 1
    assert "from 1 to 15" in refused.stderr
