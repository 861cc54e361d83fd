# SPDX-License-Identifier: GPL-2.0-or-later
"""The ``qubes_vpn`` states of dom0: each makes one thing so, through qubesadmin.

All of them return what they changed (``test=True``: what they would change, and change nothing),
and an error in words when a step is not possible or not safe.  They are not ``qvm.*``, which
writes in test mode and hides what it changed.
"""

try:
    import qubes_vpn_dom0
    import qubes_vpn_model
    import qubes_vpn_verify
    from qubes_vpn_machine import Machine
    from qubes_vpn_qubesd import Refused, connect, in_words
    from qubes_vpn_record import FOLDER, Record
    from qubes_vpn_trial import NOT_ASKED, NOT_RUN, PASSED, Trial
    from qubes_vpn_words import last_written, sentences

    HAS_QUBESADMIN = True
except ImportError:
    HAS_QUBESADMIN = False

#: What the states of an undo say that they did.
_BACK = {
    "restored": "put back",
    "undone": "written down",
    "removed": "removed",
    "cleaned": "removed",
}

__virtualname__ = "qubes_vpn"


def __virtual__():
    if not HAS_QUBESADMIN:
        return False, "qubes_vpn states work in dom0: qubesadmin is not here"
    return __virtualname__


def named(name, qubes, templates, netvms, dispvms):
    """Changes nothing.  Refused when a qube that the pillar names cannot be what it is to be.

    *qubes*: a mapping of names to what each is to be.  *templates*: of qubes that a run makes,
    which one each is to have.  *netvms*: which of *qubes* carry others and are not made by a run.
    *dispvms*: of dom0 and of qubes that a run makes, the template of the disposables in which they
    open links and files.
    """
    args = {"qubes": qubes, "templates": templates, "netvms": netvms, "dispvms": dispvms}
    return _state("named", name, **args)


def bypass_closed(name):
    """No disposable goes past the VPN by a bypass; one that does is ended and removed."""
    return _state("bypass_closed", name)


def template(name, clone_of, guard):
    """Template *name* exists, cloned from *clone_of* if it was missing, and has no netvm.

    A *clone_of* that is missing is installed by ``qvm-template`` first; the comment says when that
    download goes past the VPN, by *guard* (see :func:`netvm`).
    """
    return _state("template", name, clone_of=clone_of, guard=guard)


def template_offline(name):
    """Template *name*, if it is there, has no netvm, and its firewall list lets nothing through."""
    return _state("template_offline", name)


def template_software(name, netvm, in_clear, guard, lists):
    """Template *name* has its software: by the SLS applied in it, with *netvm* if need be.

    The netvm is there only after a failure without it, for a limited time, and is taken away
    whatever happens.  in_clear: whether the pillar says that it leads past the VPN.
    lists: the firewall lists that the tunnels are to have.
    """
    args = {"netvm": netvm, "in_clear": in_clear, "guard": guard, "lists": lists}
    return _state("template_software", name, **args)


def present(name, label, template=None, settings=None, adopted=False):
    """A qube *name* exists.

    If it is missing, an AppVM is made from *template* (default: dom0's default template) without
    a netvm and with *settings*, a mapping of properties.  A qube that exists stays as it is.
    One that an interrupted run left half made is completed.  *adopted*: what an existing one has
    otherwise is told.
    """
    more = {"template": template, "settings": settings, "adopted": adopted}
    return _state("present", name, label=label, **more)


def disposable(name, template, label):
    """A disposable of that name exists, made from *template*.

    Refused when there is a qube of another class.
    """
    return _state("disposable", name, template=template, label=label)


def firewall(name, rules, enforced_by=None, optional=False):
    """The firewall list of *name* is exactly *rules* (as ``qvm-firewall`` writes them).

    Refused when *enforced_by*, the netvm that has to enforce it (default: the one that the qube
    has), would not.
    A qube that does not exist is an error, unless *optional*.
    """
    return _state("firewall", name, rules=rules, enforced_by=enforced_by, optional=optional)


def qube(name, settings=None, features=None, klass="AppVM"):
    """Qube *name* has these properties (*settings*) and *features*; others stay as they are.

    Refused when it is of another class than *klass* and *settings* have its template.
    """
    return _state("qube", name, settings=settings, features=features, klass=klass)


def netvm(
    name,
    netvm,
    guard,
    later=None,
    restart_clients="never",
    optional=False,
    otherwise=None,
    waits=False,
):
    """Qube *name* has *netvm* (``none``: is offline) as its own choice.

    Where there is no qube of that name, it has *otherwise*, if that is given.

    Refused when it may let a qube out in clear that is not, by *guard*: a mapping of ``uplink``,
    ``shelters`` (tunnels, and Whonix' gateway), ``services`` (the qubes that the pillar wires),
    ``outside_vpn`` (who may be in clear) and ``sheltered`` (who else may not itself).  Those whom a
    later state brings back are taken offline first instead: *later*, a mapping of ``qubes`` and
    ``default``, says who they are; its ``lists`` are those that tunnels get later.
    A running qube's new netvm is started first.  *restart_clients*, about running clients whose
    connections break: ``never``, ``ask`` or ``yes``, as in the pillar.
    A qube that does not exist is an error, unless *optional*.  *waits*: whether it is offline until
    the pillar has an allowlist for it, which is told.
    """
    more = {"later": later, "restart_clients": restart_clients, "optional": optional}
    more |= {"otherwise": otherwise, "waits": waits}
    return _state("netvm", name, netvm=netvm, guard=guard, **more)


def default_netvm(name, guard, restart_clients="never"):
    """dom0's default_netvm is *name* (``none``: no netvm).  Refused as :func:`netvm` is."""
    return _state("default_netvm", name, guard=guard, restart_clients=restart_clients)


def restored(name, **what):
    """One thing of *name* is as it was before the formula changed it.

    *what*: as ``qubes_vpn.undo_plan`` has it.  What somebody has changed since stays as it is.
    """
    return _state("restored", name, **what)


def undone(name, runs):
    """The record says that *runs* have been undone."""
    return _state("undone", name, runs=runs)


def removed(name, uuids):
    """The qube or template *name* is gone, if it is one that the formula made, by *uuids*."""
    return _state("removed", name, uuids=uuids)


def cleaned(name):
    """What the formula keeps in dom0, the record and its notes, is gone.

    Refused while there is something to undo, or a qube that is half made.
    """
    return _state("cleaned", name)


def leftovers(name, known):
    """Notes of qubes that are not there are gone; half made ones not in *known* are told."""
    return _state("leftovers", name, known=known)


def stranded(name, routed, default, disposables):
    """Says who is offline or off since a run that was killed, and not in *routed*.

    The notes of whom a run shut down for a restart are gone.  *default* and *disposables* are the
    pillar's keys of that name.
    """
    more = {"routed": routed, "default": default, "disposables": disposables}
    return _state("stranded", name, **more)


def remarks(name):
    """Says once more what the states of this run had to say beside their changes."""
    told = _machine().remarks if _key() in __context__ else []
    comment = "\n".join(told) or "nothing beside the changes"
    return {"name": name, "changes": {}, "result": True, "comment": comment}


def management(name, routed, guard, restart_clients="never"):
    """dom0's management disposables have no netvm.  Refused when one is in *routed*."""
    more = {"guard": guard, "restart_clients": restart_clients}
    return _state("management", name, routed=routed, **more)


def disposables(name, routed, guard, restart_clients="never"):
    """No disposable starts in clear: templates of disposables that may be there hang on *name*.

    (``none``: are offline.)  Those in *routed*, in outside_vpn, behind a tunnel or offline stay.
    """
    more = {"guard": guard, "restart_clients": restart_clients}
    return _state("disposables", name, routed=routed, **more)


def served_by(name, qube, guard, outside=False, optional=False):
    """dom0's *name* (``updatevm``, ``clockvm`` or ``default_dispvm``) is *qube*, or ``none``.

    Refused when that qube may be in clear, unless *outside* says that this is a choice.
    A qube that does not exist is an error, unless *optional*.
    """
    more = {"guard": guard, "outside": outside, "optional": optional}
    return _state("served_by", name, qube=qube, **more)


def updates_policy(name, whonix_gateway, guard, outside=False):
    """*name* (``none``: nobody) fetches templates' updates, *whonix_gateway* those of Whonix'.

    A qrexec policy file of the formula's own says so; a file of that name that is not ours, and
    policy that goes before it and says otherwise, are errors.  So is a *name* that may be in clear,
    unless *outside* says that this is a choice.
    """
    args = {"whonix_gateway": whonix_gateway, "guard": guard, "outside": outside}
    return _state("updates_policy", name, **args)


def services_policy(name):
    """Only dom0 calls the services of VPN and resolver qubes (R67).

    By a qrexec policy file of the formula's own; one of that name that is not ours is an error.
    """
    return _state("services_policy", name)


def ways_round(name, guard, roles, outside=None):
    """Changes nothing, and says what goes past the VPN on the machine as it is.

    And whose firewall list lets no DNS through.  *roles*: of the service qubes, by name.
    *outside*: who fetches updates past the VPN by choice.
    """
    return _state("ways_round", name, guard=guard, roles=roles, outside=outside)


def verified(name, what, of=None, destructive=False):
    """The test *name* (see :mod:`qubes_vpn_verify`) passes.

    True: it has; False: it has failed; None: it was not run, and the comment says why.  Changes
    nothing.  what, of: as ``qubes_vpn.verify_plan`` has them.  destructive: whether it may take a
    tunnel down for a while, which comes back whatever happens.
    """
    answer = {"name": name, "changes": {}, "result": None}
    test = qubes_vpn_verify.Test(name, what, of)
    if __opts__["test"]:
        model, problems = qubes_vpn_model.read(__pillar__.get("qubes_vpn"))
        comment = problems[0].text() if problems else qubes_vpn_verify.foretold(model, test)
        return {**answer, "comment": comment}
    try:
        outcome = qubes_vpn_verify.run(_trial(destructive), test, _last())
    except Refused as refused:
        outcome = qubes_vpn_verify.Outcome(NOT_RUN, (str(refused),))
    _outcomes()[name] = outcome
    result = {PASSED: True, NOT_RUN: None, NOT_ASKED: None}.get(outcome.verdict, False)
    comment = "\n".join([outcome.verdict.upper(), *outcome.lines])
    return {**answer, "result": result, "comment": comment}


def all_verified(name):
    """All tests of this run that were asked for have been run, and have passed."""
    answer = {"name": name, "changes": {}, "result": None}
    if __opts__["test"]:
        return {**answer, "comment": "would say what came of the tests"}
    result, comment = qubes_vpn_verify.summary(_outcomes())
    return {**answer, "result": result, "comment": comment}


def _outcomes():
    return __context__.setdefault("qubes_vpn.outcomes", {})


def _trial(destructive):
    """One for all tests of a run: what one has found out, another need not ask again."""
    key = "qubes_vpn.trial"
    if key not in __context__:
        model, problems = qubes_vpn_model.read(__pillar__.get("qubes_vpn"))
        if problems:
            raise Refused(problems[0].text())
        __context__[key] = Trial(model, _fresh, destructive)
    return __context__[key]


def _fresh():
    with in_words("dom0's qubes could not be listed"):
        root = __opts__["root_dir"]
        return Machine(connect(), dry=True, record=Record(_folder()), root=root)


def _state(state, name, **args):
    """One state's answer, from the step of that name."""
    changes = {}
    try:
        with in_words(f"{name}: dom0's qubes could not be listed"):
            machine = _machine()
    except Refused as refused:
        return {"name": name, "changes": {}, "result": False, "comment": str(refused)}
    told = len(machine.remarks)
    result, comment = True, "as the pillar says"
    try:
        said = qubes_vpn_dom0.run(machine, state, {"name": name, **args}, changes)
        if said:
            comment = said
        elif changes:
            done = _BACK.get(state, "changed")
            comment = done
            if __opts__["test"]:
                comment = f"would be {done}" if state in _BACK else _would(name, changes)
            result = None if __opts__["test"] else True
    except Refused as refused:
        result, comment = False, str(refused)
    comment = "\n".join([comment, *machine.remarks[told:]])
    return {"name": name, "changes": changes, "result": result, "comment": comment}


def _would(name, changes):
    """What a dry run says of *changes*: what is different now, and what of it was done by hand."""
    return "\n".join(sentences(name, changes, _last()))


def _last():
    key = "qubes_vpn.last"
    if key not in __context__:
        __context__[key] = last_written(_machine(), _folder())
    return __context__[key]


def _folder():
    return __opts__.get("qubes_vpn_folder", FOLDER)


def _machine():
    """One connection for a whole run; a dry run and a real one never share what they know."""
    if _key() not in __context__:
        dry, root = __opts__["test"], __opts__["root_dir"]
        record = Record(_folder())
        __context__[_key()] = Machine(connect(), dry=dry, record=record, root=root)
    return __context__[_key()]


def _key():
    return f"qubes_vpn.machine.{'dry' if __opts__['test'] else 'real'}"
