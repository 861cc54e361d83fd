# SPDX-License-Identifier: GPL-2.0-or-later
"""A template's software is installed, with a netvm only if it cannot be done without (R23).

docs/decisions/0018-a-netvm-for-a-template.md says what keeps the netvm from being left behind.
"""

import contextlib
import shutil
import signal
import time

import qubes_vpn_guard
import qubes_vpn_program
import qubes_vpn_shelters
from qubes_vpn_qubesd import Refused

SLS = "qubes.network.sys-vpn"
#: Seconds for an installation; and for what comes before and after it.
_PATIENCE, _AROUND = 3600, 300
_CLOSED = ["action=drop"]
#: What an installation needs, and nothing else.
_OPEN = ("specialtarget=dns", "proto=tcp dstports=80-80", "proto=tcp dstports=443-443")
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def template_offline(machine, changes, name):
    """Takes from template *name* what an interrupted :func:`template_software` left it.

    A netvm, and a list that lets something through for a while.  Without these, or without such a
    template, there is nothing to do.
    """
    if machine.klass(name) != "TemplateVM":
        return
    left = any("expire=" in rule for rule in machine.rules(name))
    if machine.value(name, "netvm") is not None:
        machine.set(name, {"netvm": None}, changes)
        left = True
    if left:
        machine.set_rules(name, _CLOSED, changes)


def template_software(machine, changes, name, netvm, in_clear, guard, lists):
    """Applies template *name*'s part of the SLS in it, with *netvm* if it fails without.

    in_clear: whether the pillar says that *netvm* leads past the VPN; refused when it does and the
    pillar does not say so.  The netvm is taken away again whatever happens.
    lists: the tunnels' firewall lists; without its own one a tunnel counts as none.
    Returns what there is to say.
    """
    if machine.klass(name) != "TemplateVM":
        raise Refused(f"there is no template '{name}'. Run {SLS} in dom0 first.")
    template_offline(machine, changes, name)
    way = _way(machine, name, netvm, in_clear, guard, lists)
    if machine.running(name):
        raise Refused(
            f"{name} is running. Shut it down (qvm-shutdown {name}), then run this again."
        )
    if shutil.which("qubesctl") is None and not machine.dry:
        raise Refused("there is no program qubesctl in dom0")
    if machine.dry:
        return (
            f"would apply {SLS} in {name}, without a netvm. Only if that fails, once more with "
            f"{way} for at most {_PATIENCE // 60} minutes; that cannot be known before."
        )
    without = _apply(machine, name)
    if without is None:
        return f"{SLS} is applied in {name}. It needed no netvm."
    machine.remark(f"Without a netvm: {without}. So {name} had {way}, and has none any more.")
    _with_netvm(machine, changes, name, netvm)
    return None


def _with_netvm(machine, changes, name, netvm):
    expire = int(time.time()) + _PATIENCE + _AROUND
    opened = [f"action=accept {rule} expire={expire}" for rule in _OPEN]
    given = {}  # and taken away again: no change in the end
    try:
        with _ended_by_signals():
            machine.set_rules(name, [*opened, *_CLOSED], given)
            machine.set(name, {"netvm": netvm}, given)
            failed = _apply(machine, name)
    finally:
        with _deaf():
            _close(machine, name, given)
    if failed is not None:
        raise Refused(f"{SLS} was not applied in {name}, with netvm {netvm} either: {failed}.")
    changes["software"] = {"old": "not as the SLS has it", "new": f"installed by {netvm}"}


def _close(machine, name, given):
    """Both ways, each also where the other fails."""
    failed = []
    for close in (
        lambda: machine.set(name, {"netvm": None}, given),
        lambda: machine.set_rules(name, _CLOSED, given),
    ):
        try:
            close()
        except Exception as error:  # whatever it was, the other way has to be tried
            failed.append(str(error) or type(error).__name__)
    if failed:
        raise Refused(
            f"{name} may still have its netvm ({'; '.join(failed)}). Take it away: qvm-prefs "
            f"{name} netvm none. Its firewall list lets nothing through after an hour."
        )


def _apply(machine, name):
    """Runs Qubes' Salt for the template.  Returns None, or what it said went wrong.

    It shuts down what it has started.  A target that is not there it leaves out, and ends with 0.
    """
    try:
        code, lines = qubes_vpn_program.run(
            ["qubesctl", "--skip-dom0", f"--targets={name}", "state.sls", SLS], _PATIENCE
        )
    except qubes_vpn_program.TooLong as error:
        return str(error)
    finally:
        machine.forget_names()  # another process started qubes, and stopped them
    told = [line for line in lines if line.startswith(f"{name}: ")]
    if code == 0 and told == [f"{name}: OK"]:
        return None
    return ". ".join(told or list(filter(None, lines))[-2:]) or f"qubesctl ended with {code}"


def _way(machine, name, netvm, in_clear, guard, lists):
    """The netvm and where it leads, in words."""
    if machine.klass(netvm) is None:
        raise Refused(f"there is no qube '{netvm}'. Run {SLS} in dom0 first.")
    if not machine.enforces(netvm):
        raise Refused(
            f"{netvm} would not enforce {name}'s firewall list, which ends its access in any case: "
            "its service qubes-firewall is off, or its template lacks qubes-core-agent-networking."
        )
    wiring = {**machine.wiring(), name: netvm}
    promise = qubes_vpn_guard.guard_of(guard)
    path = " -> ".join(qubes_vpn_guard.path(netvm, wiring))
    open_yet = qubes_vpn_shelters.unlisted(machine, promise, lists)
    shelters = tuple(shelter for shelter in promise.shelters if shelter not in open_yet)
    promise = promise._replace(shelters=shelters)
    exposed = qubes_vpn_guard.may_be_in_clear(name, wiring, promise)
    if exposed and not in_clear:
        on_it = [each for each in open_yet if each in qubes_vpn_guard.path(netvm, wiring)]
        why = f"; {on_it[0]} lacks the pillar's firewall list" if on_it else ""
        raise Refused(f"{netvm} leads past the VPN now ({path}{why}). Run {SLS} in dom0 first.")
    return f"the netvm {netvm} ({path}{', past the VPN' if exposed else ''})"


@contextlib.contextmanager
def _ended_by_signals():
    """What would end the process without a word ends it by an exception.

    Salt sees to it for some.  Out of the main thread nothing can be done about signals.
    """

    def end(number, _frame):
        raise SystemExit(128 + number)

    with _handled(end, only=signal.SIG_DFL):
        yield


def _deaf():
    """Signals wait until this has ended."""
    return _handled(signal.SIG_IGN)


@contextlib.contextmanager
def _handled(handler, only=None):
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    chosen = [number for number, old in before.items() if only is None or old is only]
    with contextlib.suppress(ValueError):
        for number in chosen:
            signal.signal(number, handler)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            for number in chosen:
                signal.signal(number, before[number])
