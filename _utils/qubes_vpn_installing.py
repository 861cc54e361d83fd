# SPDX-License-Identifier: GPL-2.0-or-later
"""The template that another one is cloned from is installed when it is missing (R20).

What an interrupted run leaves of it: docs/decisions/0008-what-was-left-half-made.md.
"""

import contextlib

import qubes_vpn_guard
import qubes_vpn_making
import qubes_vpn_ways
from qubes_vpn_qubesd import Refused, in_words
from qubes_vpn_qvm_template import LAST_FEATURE

#: What the note of a template says that is being installed.
_NOTE = "installing"


def source(machine, changes, name, guard):
    """Installs template *name* unless it is there.

    guard: what the pillar promises; by it the download may be one that goes past the VPN.
    """
    if machine.klass(name) is not None and not _removed(machine, changes, name):
        return
    through = _through(machine, name, guard)
    with in_words(f"{name}: dom0 could not note that it is being installed"):
        machine.begin(name, _NOTE)
    changes["installed"] = {"old": None, "new": f"{name}, downloaded by {through}"}
    try:
        machine.install(name)
        if not machine.dry and not _is_whole(machine, name):
            raise Refused(f"template '{name}' is not as qvm-template leaves one")
    except Refused as refused:
        del changes["installed"]
        if machine.klass(name) is not None:
            # Of a template that is there the next run says more, or removes what is empty.
            raise Refused(f"{refused}. What there is of '{name}' the next run looks at.") from None
        with contextlib.suppress(Refused), in_words(name):
            machine.end(name)
        raise Refused(f"{refused}.") from None
    with in_words(f"'{name}' is installed, and dom0 could not note so; the next run does"):
        machine.claim(name, machine.uuid(name))
        machine.end(name)


def _removed(machine, changes, name):
    """Whether an interrupted run left it without a system, so that it was removed.

    Refused where there is a system, and what has to follow did not: somebody may use it.
    """
    if name not in machine.unfinished():
        return False
    half = qubes_vpn_making.is_half_template(machine, name)
    if not half and machine.noted(name) != _NOTE:
        return False
    put_right = f"{name}: left half made"
    if not half and _is_whole(machine, name):
        with in_words(f"'{name}' is installed, and dom0 could not note so; the next run does"):
            machine.end(name)
        changes[put_right] = {"old": "by an interrupted run", "new": "completed"}
        return False
    if machine.installing():
        raise Refused(
            f"qvm-template, which an interrupted run left behind, still installs '{name}', or "
            "another template. Wait until it has ended, then run this again."
        )
    if not half:
        raise Refused(
            f"an earlier run was interrupted while qvm-template installed '{name}', and it is not "
            f"whole. Remove it (qvm-shutdown --wait {name}; qvm-remove {name}), then run this "
            f"again; or keep it as it is (qvm-features --unset dom0 {machine.note(name)})."
        )
    qubes_vpn_making.remove_half(machine, name)
    changes[put_right] = {"old": "by an interrupted run", "new": "removed"}
    return True


def _is_whole(machine, name):
    """Whether qvm-template got to its end with it."""
    if machine.klass(name) is None:
        return False
    return machine.written(name, "root") and machine.feature(name, LAST_FEATURE) is not None


def _through(machine, name, guard):
    """The qube that downloads for dom0; says so when that goes past the VPN."""
    through = machine.named("updatevm")
    missing = f"there is no template '{name}'"
    fix = f"Name another one (qubes-prefs updatevm NAME), or install {name} yourself."
    if through is None:
        raise Refused(f"{missing}, and no qube to download it: dom0 has no updatevm. {fix}")
    promise = qubes_vpn_guard.guard_of(guard)
    ways = qubes_vpn_ways.Ways(machine, promise)
    if not ways.online(through):
        raise Refused(f"{missing}, and {through}, dom0's updatevm, has no netvm. {fix}")
    if ways.exposed(through):
        way = " -> ".join(qubes_vpn_guard.path(through, ways.wiring))
        machine.remark(
            f"The download of {name} goes past the VPN, by {way}: {through} is dom0's updatevm."
        )
    return through
