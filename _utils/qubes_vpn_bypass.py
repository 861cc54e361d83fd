# SPDX-License-Identifier: GPL-2.0-or-later
"""One disposable past the VPN for some minutes, and never longer: a hotel's portal (R05).

What keeps it from staying open: docs/decisions/0037-a-bypass-that-ends.md.  Every step before the
last one leaves it closed, and the last one is its start, after what will end it has been armed.
"""

import shutil
import sys
import time
from pathlib import Path

import qubes_vpn_bypass_end
import qubes_vpn_guard
import qubes_vpn_passing
import qubes_vpn_plan
import qubes_vpn_program
import qubes_vpn_record
from qubes_vpn_qubesd import Refused
from qubes_vpn_undo import BYPASS_OPENED

CLOSED = "bypass closed"
#: What a portal needs, and nothing else.
_OPEN = ("specialtarget=dns", "proto=tcp dstports=80-80", "proto=tcp dstports=443-443")
_UNIT = "qubes-vpn-bypass.service"
#: Seconds for a command of systemd's.
_PATIENCE = 30
#: Tags of qubes that are never to be in clear.
_WHONIX = {"anon-vm", "anon-gateway"}
_RUN = "Run qubes.network.sys-vpn in dom0 first"
_SHOW = "qubes_vpn.bypass"
_MEANWHILE = "somebody else opens or closes a bypass just now"
#: States of a unit of systemd's: it runs; it is started, or will be again in some seconds.
_ENDING = ("active", "activating")


def opened(machine, model, minutes, by):
    """Lets the pillar's disposable past the VPN for *minutes* (None: as long as the pillar says).

    by: who wants it.  Returns what there is to say; raises :class:`qubes_vpn_qubesd.Refused`.
    """
    bypass = model.bypass
    if bypass is None:
        raise Refused("the pillar has no bypass, so nobody is let past the VPN: see pillar.example")
    minutes = bypass.minutes if minutes is None else minutes
    if type(minutes) is not int or not 1 <= minutes <= bypass.minutes:
        raise Refused(f"minutes={minutes}: write a whole number from 1 to {bypass.minutes}")
    with machine.alone(make=True) as alone:
        if not alone:
            raise Refused(f"{_MEANWHILE}, so none is opened. Look what there is: {_SHOW}")
        return _opened(machine, model, minutes, by)


def _opened(machine, model, minutes, by):
    bypass = model.bypass
    name, template = bypass.name, bypass.template or machine.named("default_dispvm")
    _tidy(machine, {})
    _may(machine, model, name, template)
    way = " -> ".join([name, *qubes_vpn_guard.path(bypass.netvm, machine.wiring())])
    if machine.dry:
        return f"Would let {name} past the VPN for {minutes} minutes: {way}."
    machine.passing(name)
    # What it would wait for: the time is not to be over before there is something to end.
    machine.start(bypass.netvm, {})
    machine.forget_names()  # that may have taken minutes
    _expect_free(machine, name)
    try:
        machine.note_bypass(name, "1")
        machine.event(BYPASS_OPENED, name, by, netvm=bypass.netvm, minutes=minutes)
        until = _arm(name, machine.folder(), minutes)
        _make(machine, name, template, bypass.netvm, until)
        machine.start(name, {})
        if not is_armed():
            raise Refused(
                f"{name} was not on before its time was over, or what ends it was taken away"
            )
    except BaseException as error:
        _close_again(machine, name, error)
        raise
    at = qubes_vpn_passing.words(until)
    return (
        f"{name} is past the VPN {at}, {minutes} minutes: {way}. In it: qvm-run {name} "
        "firefox. Then it is killed, with all that is in it. To close it before: sudo qubesctl "
        "qubes_vpn.bypass close"
    )


def closed(machine, changes, name, by="run"):
    """No disposable goes past the VPN: the step *name* of a run, an undo; or *by* a user."""
    with machine.alone() as alone:
        noted = machine.bypasses()
        ours = [each for each in noted if machine.is_bypass(each)]
        for each in ours:  # before anything is said about it, which may fail
            machine.kill(each)
            changes[each] = {"old": "past the VPN for a while", "new": "killed and removed"}
        if not alone:  # what would end another's is not ours to take away
            raise Refused(f"{_MEANWHILE}. What was open is closed. Run this again")
        if noted and not machine.dry:
            _disarm()
        for each in ours:
            _end_note(machine, each, by)
        _tidy(machine, changes, but=ours)


def standing(machine):
    """``[(name, power state, until)]`` of the disposables that are let past.

    until: see :func:`qubes_vpn_passing.until`.
    """
    return [
        (name, machine.power(name), qubes_vpn_passing.until(machine.noted_bypass(name)))
        for name in machine.bypasses()
        if machine.is_bypass(name)
    ]


def told(machine):
    """The same as text, and what the record has of earlier ones.

    Raises :class:`qubes_vpn_machine.Refused` with the first half, where the record cannot be read.
    """
    found = []
    for name, power, until in standing(machine):
        now = f"{name}: {power.lower()}, may go past the VPN {qubes_vpn_passing.words(until)}"
        if _state() not in _ENDING:
            now = f"{now}, AND NOTHING WILL END IT: qubes_vpn.bypass close"
        elif until is not None and until <= time.time():
            now = f"{now}: it is being ended"
        found.append(now)
    found = found or ["No bypass is open."]
    try:
        events = qubes_vpn_record.events(machine.recorded())
    except Refused as refused:
        raise Refused("\n".join([*found, f"Of earlier ones nobody knows: {refused}"])) from None
    earlier = [event for event in events if event["event"] in (BYPASS_OPENED, CLOSED)]
    return "\n".join([*found, *map(qubes_vpn_record.told, earlier)])


def is_armed():
    """Whether what ends it runs."""
    return _state() == _ENDING[0]


def _state():
    """What systemd says of the program that ends it; None: it says nothing."""
    try:
        words = ["systemctl", "show", "--property=ActiveState", "--value", _UNIT]
        code, lines = qubes_vpn_program.run(words, _PATIENCE)
    except (OSError, qubes_vpn_program.TooLong):
        return None
    return lines[0].strip() if code == 0 else None


def _may(machine, model, name, template):
    """Refused unless all is as it has to be, before anything is written."""
    if ours := [each for each in machine.bypasses() if machine.is_bypass(each)]:
        # There is one program that ends it: it would be taken away from them.
        raise Refused(f"a bypass is open: {', '.join(ours)}. First: qubes_vpn.bypass close")
    _expect_free(machine, name)
    problem = _netvm_problem(machine, model, name) or _template_problem(machine, model, template)
    if problem:
        raise Refused(problem)
    for program in ("systemd-run", "systemctl", "xl", "qvm-kill"):
        if shutil.which(program) is None:
            raise Refused(f"dom0 has no program {program}, so nothing would end it")


def _expect_free(machine, name):
    """Refused where the name is another qube's, which is never touched."""
    if machine.klass(name) is not None:
        raise Refused(
            f"there is a qube '{name}', and it is not the formula's, so it is left alone. Choose "
            "another name in the pillar (bypass: name), or remove it if nobody needs it"
        )


def _netvm_problem(machine, model, name):
    netvm = model.bypass.netvm
    if machine.klass(netvm) is None:
        return f"there is no qube '{netvm}'. {_RUN}"
    if (way := qubes_vpn_guard.path(netvm, machine.wiring())) != model.path(netvm):
        return f"{' -> '.join(way)} is not the pillar's way. {_RUN}"
    if not machine.enforces(netvm):
        return (
            f"{netvm} would not enforce {name}'s firewall list: its service qubes-firewall is off, "
            "or its template lacks qubes-core-agent-networking"
        )
    return None


def _template_problem(machine, model, template):
    """What it is made from is taken over: nothing of that may be seen, or open anything."""
    if template is None or machine.klass(template) is None:
        return f"there is no template for disposables '{template}': bypass.template"
    if not machine.value(template, "template_for_dispvms"):
        return f"'{template}' is no template for disposables: bypass.template"
    if template in {*model.homes(), *model.vaults}:
        return f"what is in '{template}' must not be online in clear: bypass.template"
    if machine.value(template, "provides_network") or machine.tags(template) & _WHONIX:
        return f"'{template}' is for other things than going out in clear: bypass.template"
    guard = qubes_vpn_guard.guard_of(qubes_vpn_plan.guard(model))
    if qubes_vpn_guard.may_be_in_clear(template, machine.wiring(), guard):
        return (
            f"'{template}' is in clear itself, and so would be what is made from it, without its "
            "list, for a moment: name another one, bypass.template"
        )
    return None


def _make(machine, name, template, netvm, until):
    """The disposable, off, with everything on it that holds it; what it takes over goes first."""
    machine.make(name, "DispVM", template, qubes_vpn_passing.LABEL)
    machine.note_bypass(name, qubes_vpn_passing.note(machine.uuid(name), until))
    machine.set(name, {"netvm": None}, {})
    # It removes itself when it ends, also at dom0's next start; and opens nothing elsewhere.
    settings = {"auto_cleanup": True, "autostart": False, "default_dispvm": None}
    machine.set(name, settings, {})
    opened = [f"action=accept {rule} expire={until}" for rule in _OPEN]
    machine.set_rules(name, [*opened, "action=drop"], {})
    machine.set(name, {"netvm": netvm}, {})


def _arm(name, folder, minutes):
    """Has systemd end it in so many minutes; returns when that is, in seconds since 1970.

    By two clocks, of which the first that says so counts: one that nobody can set, and the wall's.
    What counts them runs before anything is made, and is started anew whatever ends it but itself.
    """
    _disarm()
    source = Path(qubes_vpn_bypass_end.__file__).read_text(encoding="utf-8")
    code = str(Path(qubes_vpn_record.__file__).resolve().parent)
    now = int(time.clock_gettime(time.CLOCK_BOOTTIME)), int(time.time())
    until = tuple(clock + minutes * 60 for clock in now)
    note = f"{qubes_vpn_passing.NOTE}{name}"
    call = f"main({name!r}, {note!r}, {until!r}, {str(folder)!r}, {code!r})"
    unit = ["--quiet", "--collect", f"--unit={_UNIT}", f"--description=Ends the bypass of {name}"]
    unit += ["--property=Type=notify", "--property=Restart=always", "--property=RestartSec=5"]
    unit += ["--property=RestartPreventExitStatus=0"]
    python = [_python(), "-I", "-c", f"{source}\n{call}\n"]
    problem = _systemd(["systemd-run", *unit, *python])
    if problem is None and not is_armed():
        problem = "it does not run"
    if problem is not None:
        raise Refused(f"systemd would not end it ({problem}), so it is not opened")
    return until[1]


def _disarm():
    """Takes away what would end it; it may not be there."""
    _systemd(["systemctl", "stop", _UNIT])


def _systemd(words):
    """None, or why a command of systemd's failed."""
    try:
        code, lines = qubes_vpn_program.run(words, _PATIENCE)
    except (OSError, qubes_vpn_program.TooLong) as error:
        return str(error)
    return None if code == 0 else (" ".join(filter(None, lines[-3:])) or f"it ended with {code}")


def _python():
    """dom0's own, also when Salt has another one."""
    own = Path("/usr/bin/python3")
    return str(own) if own.exists() else sys.executable


def _close_again(machine, name, error):
    """What did not open is closed, whatever it was; else it is ended when its time is over."""
    why = str(error) or "it was ended half way"  # such as by Ctrl-C
    try:
        machine.ask_anew([name, "dom0"])
        machine.forget_names()
        if machine.is_bypass(name):
            machine.kill(name)
    except Exception as more:
        raise Refused(
            f"{why}. And {name} may still be open ({more}); it is ended when its time is over, "
            f"or now by: qvm-kill {name}"
        ) from error
    _disarm()
    try:
        _end_note(machine, name, "failure")
    except Refused as more:
        raise Refused(f"{why}. {more}") from error


def _tidy(machine, changes, but=()):
    """Notes of what is no more: its time was over, or dom0 was started anew."""
    for name in machine.bypasses():
        if name not in but and not machine.is_bypass(name):
            changes[f"bypass of {name}"] = {"old": "noted", "new": "over"}
            _end_note(machine, name, "itself")


def _end_note(machine, name, by):
    machine.note_bypass(name, None)
    try:
        lines = qubes_vpn_record.read(machine.folder())  # it may have grown just now
        last = (qubes_vpn_record.events(lines, name) or [None])[-1]
        if last is not None and last["event"] == BYPASS_OPENED:
            machine.event(CLOSED, name, by)
    except (qubes_vpn_record.Unusable, Refused) as unusable:
        raise Refused(f"{name} is closed, but that cannot be recorded: {unusable}") from unusable
