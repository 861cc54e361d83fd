# SPDX-License-Identifier: GPL-2.0-or-later
"""One disposable past the VPN for some minutes, and never longer: a hotel's portal (R05).

What keeps it from staying open: docs/decisions/0037-a-bypass-that-ends.md.  Every step before the
last one leaves it closed, and the last one is its start, after what will end it has been armed.
"""

import os
import pwd
import re
import shutil
import sys
import time
from pathlib import Path

import qubes_vpn_bypass_end
import qubes_vpn_guard
import qubes_vpn_plan
import qubes_vpn_program
import qubes_vpn_record
from qubes_vpn_machine import Refused
from qubes_vpn_undo import BYPASS_OPENED

CLOSED = "bypass closed"
#: What a portal needs, and nothing else.
_OPEN = ("specialtarget=dns", "proto=tcp dstports=80-80", "proto=tcp dstports=443-443")
_UNIT = "qubes-vpn-bypass"
#: Seconds for a command of systemd's.
_PATIENCE = 30
#: Tags of qubes that are never to be in clear.
_WHONIX = {"anon-vm", "anon-gateway"}
_RUN = "Run qubes.network.sys-vpn in dom0 first"
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}\Z")


def user():
    """Who is at it, for the record: a user of dom0."""
    name = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    return name if _USER.match(name) else "somebody"


def opened(machine, model, minutes, by):
    """Lets the pillar's disposable past the VPN for *minutes* (None: as long as the pillar says).

    by: who wants it.  Returns what there is to say; raises :class:`qubes_vpn_machine.Refused`.
    """
    bypass = model.bypass
    if bypass is None:
        raise Refused("the pillar has no bypass, so nobody is let past the VPN: see pillar.example")
    minutes = bypass.minutes if minutes is None else minutes
    if type(minutes) is not int or not 1 <= minutes <= bypass.minutes:
        raise Refused(f"minutes={minutes}: write a whole number from 1 to {bypass.minutes}")
    name, template = bypass.name, bypass.template or machine.named("default_dispvm")
    _tidy(machine, {})
    _may(machine, model, name, template)
    way = " -> ".join([name, *qubes_vpn_guard.path(bypass.netvm, machine.wiring())])
    if machine.dry:
        return f"Would let {name} past the VPN for {minutes} minutes: {way}."
    machine.passing(name)
    # What it would wait for: the timer is not to be over before there is something to end.
    machine.start(bypass.netvm, {})
    try:
        machine.note_bypass(name, "1")
        machine.event(BYPASS_OPENED, name, by, netvm=bypass.netvm, minutes=minutes)
        until = _arm(name, machine.folder(), minutes)
        _make(machine, name, template, bypass.netvm, until)
        machine.start(name, {})
        if not is_armed():
            raise Refused(f"{name} was not on before its time was over, or its timer is gone")
    except BaseException as error:
        _close_again(machine, name, error)
        raise
    at = time.strftime("%H:%M", time.localtime(until))
    return (
        f"{name} is past the VPN until {at}, {minutes} minutes: {way}. In it: qvm-run {name} "
        "firefox. Then it is killed, with all that is in it. To close it before: sudo qubesctl "
        "qubes_vpn.bypass close"
    )


def closed(machine, changes, name, by="run"):
    """No disposable goes past the VPN: the step *name* of a run, an undo; or *by* a user."""
    ours = [each for each in machine.bypasses() if _is_ours(machine, each)]
    for each in ours:  # before anything is said about it, which may fail
        _end(machine, each)
        changes[each] = {"old": "past the VPN for a while", "new": "killed and removed"}
    for each in ours:
        _end_note(machine, each, by)
    _tidy(machine, changes, but=ours)
    others = [each for each in machine.bypasses() if each not in ours]
    if not machine.dry and any(machine.klass(each) is not None for each in others):
        _disarm()  # the name is another qube's; where there is none, one may just be made


def standing(machine, lines):
    """``[(name, power state, its last event or None)]`` of the disposables that are let past."""
    return [
        (name, machine.power(name), (qubes_vpn_record.events(lines, name) or [None])[-1])
        for name in machine.bypasses()
        if _is_ours(machine, name)
    ]


def told(machine, lines):
    """The same as text, and what the record has of earlier ones."""
    found = []
    for name, power, _event in standing(machine, lines):
        armed = "" if is_armed() else ", AND NOTHING WILL END IT"
        found.append(f"{name}: {power.lower()}, may go past the VPN{armed}")
    found = found or ["No bypass is open."]
    earlier = [e for e in qubes_vpn_record.events(lines) if e["event"] in (BYPASS_OPENED, CLOSED)]
    return "\n".join([*found, *map(qubes_vpn_record.told, earlier)])


def is_armed():
    """Whether systemd has the timer that ends it."""
    return _systemd(["systemctl", "is-active", "--quiet", f"{_UNIT}.timer"]) is None


def _may(machine, model, name, template):
    """Refused unless all is as it has to be, before anything is written."""
    if machine.klass(name) is not None:
        raise Refused(f"there is a qube '{name}'. Is a bypass open (qubes_vpn.bypass close)?")
    if others := [each for each in machine.bypasses() if _is_ours(machine, each)]:
        # There is one timer: it would be taken away from them.
        raise Refused(f"a bypass is open: {', '.join(others)}. First: qubes_vpn.bypass close")
    problem = _netvm_problem(machine, model, name) or _template_problem(machine, model, template)
    if problem:
        raise Refused(problem)
    for program in ("systemd-run", "systemctl", "xl", "qvm-kill"):
        if shutil.which(program) is None:
            raise Refused(f"dom0 has no program {program}, so nothing would end it")


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
    machine.make(name, "DispVM", template, "red")
    machine.set(name, {"netvm": None}, {})
    machine.note_bypass(name, machine.uuid(name))
    # It removes itself when it ends, also at dom0's next start; and opens nothing elsewhere.
    settings = {"auto_cleanup": True, "autostart": False, "default_dispvm": None}
    machine.set(name, settings, {})
    opened = [f"action=accept {rule} expire={until}" for rule in _OPEN]
    machine.set_rules(name, [*opened, "action=drop"], {})
    machine.set(name, {"netvm": netvm}, {})


def _arm(name, folder, minutes):
    """Has systemd end it in so many minutes; returns when that is, in seconds since 1970.

    Two clocks, of which the first that says so counts: one that stands still while the machine
    sleeps, and one that somebody may set.
    """
    _disarm()
    source = Path(qubes_vpn_bypass_end.__file__).read_text(encoding="utf-8")
    code = str(Path(qubes_vpn_record.__file__).resolve().parent)
    call = f"main({name!r}, {str(folder)!r}, {code!r})"
    until = int(time.time()) + minutes * 60
    unit = ["--quiet", "--collect", f"--unit={_UNIT}", f"--description=Ends the bypass of {name}"]
    timer = [f"--on-active={minutes * 60}", f"--on-calendar=@{until}"]
    timer += ["--timer-property=AccuracySec=1s"]
    again = ["--property=Restart=on-failure", "--property=RestartSec=5"]
    python = [_python(), "-I", "-c", f"{source}\n{call}\n"]
    problem = _systemd(["systemd-run", *unit, *timer, *again, *python])
    if problem is None and not is_armed():
        problem = "the timer does not run"
    if problem is not None:
        raise Refused(f"systemd would not end it ({problem}), so it is not opened")
    return until


def _disarm():
    """Takes the timer away; it may not be there."""
    _systemd(["systemctl", "stop", f"{_UNIT}.timer"])


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
    """What did not open is closed, whatever it was; else the timer does it."""
    try:
        machine.forget_names()
        _end(machine, name)
        _end_note(machine, name, "failure")
    except Exception as more:
        raise Refused(
            f"{error}. And {name} may still be open ({more}); it is ended when its time is over, "
            f"or now by: qvm-kill {name}"
        ) from error


def _is_ours(machine, name):
    """Whether the note is about the qube that has this name now."""
    return machine.klass(name) == "DispVM" and machine.noted_bypass(name) in (
        "1",
        machine.value(name, "uuid"),
    )


def _tidy(machine, changes, but=()):
    """Notes of what is no more: by the timer, or because dom0 was started anew."""
    for name in machine.bypasses():
        if name not in but and not _is_ours(machine, name):
            changes[f"bypass of {name}"] = {"old": "noted", "new": "over"}
            _end_note(machine, name, "itself")


def _end(machine, name):
    if machine.klass(name) is not None:
        machine.kill(name)
    if not machine.dry:
        _disarm()


def _end_note(machine, name, by):
    machine.note_bypass(name, None)
    try:
        lines = qubes_vpn_record.read(machine.folder())  # the timer may have written one just now
    except qubes_vpn_record.Unusable as unusable:
        raise Refused(f"{name} is closed, but that cannot be recorded: {unusable}") from unusable
    last = (qubes_vpn_record.events(lines, name) or [None])[-1]
    if last is not None and last["event"] == BYPASS_OPENED:
        machine.event(CLOSED, name, by)
