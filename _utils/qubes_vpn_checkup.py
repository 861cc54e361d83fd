# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0 asks its VPN and resolver qubes how they are, and tells them to connect or disconnect (R67).

Only those that run are asked: nobody is started by a question.
"""

import qubes_vpn_ask
import qubes_vpn_inventory
import qubes_vpn_restarts
import qubes_vpn_told
from qubes_vpn_ask import NoAnswer, Unsure
from qubes_vpn_doctor import Subject
from qubes_vpn_qubesd import Refused, in_words
from qubes_vpn_told import NotUnderstood

#: Seconds for an answer: a resolver asks the internet first; a tunnel has its time to come up.
_STATUS, _SWITCH = 45, 240
_ROLE = "Restart it: a service of it that dom0 has switched on since is not there yet"
_WHY = {
    "busy": "somebody else is at it. Try again",
    "profile": "its profile is missing or cannot be used",
    "endpoint": "a server of its profile is not among its endpoints. Add it to the pillar's, and "
    "apply that",
    "killswitch": "its killswitch is not open, and without it there is no tunnel",
    "no-answer": "the server did not answer",
    "no-tunnel": "it has no tunnel that could be switched so",
}


def subject(machine, model, last, app):
    """The :class:`qubes_vpn_doctor.Subject` of a :class:`qubes_vpn_machine.Machine`.

    last: as :func:`qubes_vpn_words.last_written` gives it.  app: a connection without a cache.
    """
    inventory = qubes_vpn_inventory.take(machine, last)
    told, silent = {}, {}
    running = [
        name
        for name in (*model.tunnels(), *model.resolvers())
        if inventory["qubes"].get(name, {}).get("power") == "Running"
    ]
    for name in running:
        try:
            told[name] = status(app, name, model.services[name].role)
        except NoAnswer as why:
            silent[name] = str(why).removeprefix(f"{name}: ")
    stale, _ = outdated(app, inventory, model.services)
    return Subject(model, inventory, told, silent, frozenset(stale))


def status(app, name, role):
    """What the qube *name* tells, ``qubes_vpn_told.STATUS``; raises :class:`NoAnswer`.

    role: what the pillar has it for: what belongs to that is told, and nothing else.
    """
    found = _asked(app, name, "Status", qubes_vpn_told.STATUS, _STATUS)
    try:
        return qubes_vpn_told.for_role(found, role)
    except NotUnderstood as error:
        raise NoAnswer(f"{name}: {error}. {_ROLE}") from None


def outdated(app, inventory, names):
    """``({name: volumes}, {name: sentence})``: what is old, and of whom it could not be read.

    One call for each qube that runs, two for a disposable; of others nothing can be old.
    app: a ``qubesadmin.Qubes``.  names: of the qubes to ask about.
    """
    found, unknown = {}, {}
    for name in names:
        for volume in qubes_vpn_restarts.copies(inventory["qubes"].get(name)):
            try:
                with in_words(f"{name}: its volumes could not be read"):
                    told = app.qubesd_call(name, "admin.vm.volume.Info", volume)
            except Refused as refused:
                unknown[name] = str(refused)
                continue
            if b"is_outdated=True" in told.splitlines():
                found.setdefault(name, []).append(volume)
    return found, unknown


def switch(app, name, service, argument=""):
    """Has the VPN qube *name* do Connect, Disconnect or Switch; returns ``qubes_vpn_told.DONE``.

    Raises :class:`NoAnswer`, also when the qube says that it was not done: :class:`Unsure` unless
    the tunnel is as it was.
    """
    asked = f"{service}+{argument}" if argument else service
    done = _asked(app, name, asked, qubes_vpn_told.DONE, _SWITCH)
    if not done["done"]:
        why = _WHY.get(done["why"], "it does not say why")
        kind = NoAnswer if done["why"] in qubes_vpn_told.UNTOUCHED else Unsure
        raise kind(
            f"{name}: not done: {why}. The tunnel is {done['state']}. What is wrong, and what to "
            "do about it: sudo qubesctl qubes_vpn.doctor"
        )
    wanted = "down" if service == "Disconnect" else "up"
    if done["state"] != wanted or argument not in ("", done["profile"]):
        now = "with another profile" if done["state"] == wanted else done["state"]
        raise Unsure(
            f"{name}: done, it says, but the tunnel is {now} by now. Look again: sudo qubesctl "
            "qubes_vpn.status"
        )
    return done


def _asked(app, name, service, form, seconds):
    service = f"{qubes_vpn_told.PREFIX}{service}"
    data = qubes_vpn_ask.ask(app, name, service, seconds=seconds)
    try:
        return qubes_vpn_told.read(data, form)
    except NotUnderstood as error:
        raise Unsure(f"{name}: {error}. Is the formula in dom0 of the same version?") from None
