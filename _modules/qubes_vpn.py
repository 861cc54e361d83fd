# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts and checks about a machine's VPN: the ``qubes_vpn`` execution module.

``check``, ``plan`` and ``part`` work on plain pillar data, so they run wherever Salt renders an
SLS.  Under salt-ssh a function that an SLS calls has no pillar of its own (``__pillar__`` is empty
there): hand the pillar in.
"""

import json
import shlex
from pathlib import Path

from salt.exceptions import CommandExecutionError

import qubes_vpn_audit
import qubes_vpn_check
import qubes_vpn_configure
import qubes_vpn_drops
import qubes_vpn_finding
import qubes_vpn_guard
import qubes_vpn_killswitch
import qubes_vpn_model
import qubes_vpn_network
import qubes_vpn_observers
import qubes_vpn_packages
import qubes_vpn_part
import qubes_vpn_plan
import qubes_vpn_record
import qubes_vpn_resolver
import qubes_vpn_restarts
import qubes_vpn_rules
import qubes_vpn_sarif
import qubes_vpn_table
import qubes_vpn_template
import qubes_vpn_told
import qubes_vpn_undo
import qubes_vpn_updates

try:
    import qubes_vpn_ask
    import qubes_vpn_bypass
    import qubes_vpn_checkup
    import qubes_vpn_collect
    import qubes_vpn_doctor
    import qubes_vpn_exits
    import qubes_vpn_foretell
    import qubes_vpn_inventory
    import qubes_vpn_lasting
    import qubes_vpn_overview
    import qubes_vpn_verify
    from qubes_vpn_ask import NoAnswer, Silent, Unsure
    from qubes_vpn_machine import Machine
    from qubes_vpn_qubesd import Refused, in_words
    from qubes_vpn_qubesd import connect as _connection
    from qubes_vpn_record import Record
    from qubes_vpn_words import last_written

    HAS_QUBESADMIN = True
except ImportError:
    HAS_QUBESADMIN = False  # this is no dom0

__virtualname__ = "qubes_vpn"


def __virtual__():
    return __virtualname__


def check(pillar=None):
    """What is wrong with *pillar* (default: this minion's ``qubes_vpn`` pillar).

    Returns a list of texts, empty when all is well.

    CLI Example::

        qubesctl qubes_vpn.check
    """
    return [problem.text() for problem in qubes_vpn_check.check(_document(pillar))]


def plan(pillar=None, part="network", live=None):
    """The ordered steps that dom0 takes for *pillar*, or why there are none.

    part: ``network`` (``qubes.network.sys-vpn``), ``layout`` (``qubes.layout``) or ``templates``
    (``qubes.network.template-netvm``).
    live: whether the machine is asked what each step would change, which writes nothing.  Default:
    unless a *pillar* is handed in, as an SLS does.
    Returns ``{"problems": [text...], "steps": [{"id", "state", "args", "why"}...], "targets":
    [name...]}``; there are never steps when there are problems.  targets: the templates and qubes
    that have a part of their own (see :func:`part`).  Live steps also have ``changes``, ``words``,
    ``note`` and ``problem``: see :func:`qubes_vpn_foretell.foretell`.

    CLI Example::

        qubesctl qubes_vpn.plan
    """
    model, problems = qubes_vpn_model.read(_document(pillar))
    if problems:
        return {"problems": [problem.text() for problem in problems], "steps": []}
    plans = {"network": "plan", "layout": "layout", "templates": "templates"}
    steps = getattr(qubes_vpn_plan, plans[part])(model)
    if live or (live is None and pillar is None):
        told = _ask(lambda machine, last: qubes_vpn_foretell.foretell(machine, steps, last))
    else:
        told = [step._asdict() for step in steps]
    return {"problems": [], "steps": told, "targets": qubes_vpn_part.targets(model)}


def undo_plan(options=None):
    """The ordered steps that put back what the formula replaced, or why there are none.

    options: ``{"to": "first" | "last", "remove": true | false}``, as ``qubes_vpn_undo`` in the
    pillar has them: to before the first run (default) or the last one; whether the qubes and
    templates that these runs made are removed (default: no).
    Returns ``{"problems": [text...], "steps": [...]}``, as :func:`plan` does.

    CLI Example::

        qubesctl qubes_vpn.undo_plan '{to: last}'
    """
    to, remove, problems = qubes_vpn_undo.options(options)
    if problems:
        return {"problems": [problem.text() for problem in problems], "steps": []}
    try:
        lines = qubes_vpn_record.read(_folder())
    except qubes_vpn_record.Unusable as unusable:
        return {"problems": [str(unusable)], "steps": []}
    steps = qubes_vpn_undo.plan(lines, to, remove)
    return {"problems": [], "steps": [step._asdict() for step in steps]}


def inventory(path=None):
    """What the steps look at on this machine, as data: for ``qubes-vpn plan --inventory``.

    path: a file, new or to be replaced, for it as JSON; readable by root only.  Without one the
    data is returned.  The format, and all that is in it: :mod:`qubes_vpn_inventory`.

    CLI Example::

        qubesctl qubes_vpn.inventory path="$PWD/inventory.json"
    """
    taken = _ask(qubes_vpn_inventory.take)
    if path is None:
        return taken
    _write(path, json.dumps(taken, indent=1))
    return f"{path}: {len(taken['qubes'])} qubes and templates"


def audit(pillar=None, format="text", path=None, fail_on="low"):
    """Every way round the VPN on this machine, and what to do about it; ends with 1 if there is.

    pillar: default: this minion's ``qubes_vpn`` pillar, and none when there is none.
    format: ``text``, ``data`` (for ``--out=json``), ``json`` or ``sarif`` (SARIF 2.1.0).
    path: a file, new or to be replaced, readable by root only.
    fail_on: the least severity (critical, high, medium, low, note) for which the exit code is 1;
        so it is when such a rule cannot tell (NOT KNOWN).
    What somebody lives with goes into the pillar, with a reason: ``audit.exceptions``.

    CLI Example::

        qubesctl qubes_vpn.audit
    """
    if fail_on not in qubes_vpn_finding.SEVERITIES:
        known = ", ".join(qubes_vpn_finding.SEVERITIES)
        raise CommandExecutionError(f"fail_on={fail_on}: write one of {known}")
    if format not in _FORMATS:
        raise CommandExecutionError(f"format={format}: write one of {', '.join(_FORMATS)}")
    document, model = _document(pillar), None
    if document:
        model, problems = qubes_vpn_model.read(document)
        if problems:
            raise CommandExecutionError("\n".join(problem.text() for problem in problems))
    report = qubes_vpn_audit.audit(
        _ask(lambda machine, _: qubes_vpn_inventory.take(machine, {})), model
    )
    __context__["retcode"] = qubes_vpn_finding.exit_code(report, fail_on)
    told = _FORMATS[format](report)
    if path is None:
        return told
    _write(path, told if isinstance(told, str) else json.dumps(told, indent=1))
    return f"{path}: {qubes_vpn_finding.summary(report)}"


#: The forms in which an audit is told.
_FORMATS = {
    "text": qubes_vpn_finding.text,
    "data": qubes_vpn_finding.data,
    "json": lambda report: json.dumps(qubes_vpn_finding.data(report), indent=1),
    "sarif": lambda report: json.dumps(
        qubes_vpn_sarif.document(report, qubes_vpn_audit.RULES, None), indent=1
    ),
}


def table(form="text", ask=False):
    """Each qube of this machine, its address, its netvm, where it gets out; runs in dom0.

    Who is in clear by choice is known from this minion's pillar, if it has one.
    form: ``text`` or ``data``.  ask: whether the pillar's tunnels that run ask a server on the
    internet, the pillar's ``tests.checks``, as whom it sees them.

    CLI Example::

        qubesctl qubes_vpn.table ask=True
    """
    as_text = _is_text(form)

    def look(machine, _):
        seen = qubes_vpn_exits.exits(_connection(), _model(), machine.running) if ask else {}
        return qubes_vpn_table.rows(qubes_vpn_network.look(machine, _guard()), seen)

    found = _ask(look)
    return qubes_vpn_table.text(found) if as_text else found


def observers(form="text"):
    """Who outside of this machine may see what of each qube that gets out; runs in dom0.

    Your line, VPN providers, Tor's relays, the resolvers' operators, the servers that are visited:
    as it follows from the machine's wiring, see :mod:`qubes_vpn_observers`.
    form: ``text`` or ``data``.

    CLI Example::

        qubesctl qubes_vpn.observers
    """
    as_text = _is_text(form)
    plain = qubes_vpn_observers.plain(_model()) if _document(None) else ()
    qubes = _ask(lambda machine, _: qubes_vpn_network.look(machine, _guard()))
    found = qubes_vpn_observers.ways_of(qubes, plain)
    return qubes_vpn_observers.text(found) if as_text else qubes_vpn_observers.data(found)


def rules(path=None):
    """All rules for an audit: firewall lists, and what is loaded in VPN and resolver qubes.

    path: a file, new or to be replaced, for them as JSON; readable by root only.  Without one they
    are returned.  The format: :mod:`qubes_vpn_rules`.  Qubes that run are asked; nobody is started.

    CLI Example::

        qubesctl qubes_vpn.rules path="$PWD/rules.json"
    """
    found = _ask(
        lambda machine, _: qubes_vpn_rules.export(
            qubes_vpn_rules.lists(machine), *_collected(machine, "Rules", qubes_vpn_rules)
        )
    )
    if path is None:
        return found
    _write(path, json.dumps(found, indent=1))
    silent = [f"{name}: {why}" for name, why in found["silent"].items()]
    counts = f"{len(found['lists'])} firewall lists, the rules of {len(found['loaded'])} qubes"
    return "\n".join([f"{path}: {counts}", *silent])


def drops(form="text"):
    """What the rules of VPN and resolver qubes stopped since these started; runs in dom0.

    They note it where the pillar says ``log_drops``.  Qubes that run are asked; nobody is started.
    form: ``text`` or ``data``.

    CLI Example::

        qubesctl qubes_vpn.drops
    """
    as_text = _is_text(form)

    def look(machine, _):
        names = {qube.ip: qube.name for qube in qubes_vpn_network.look(machine) if qube.ip}
        told, silent = _collected(machine, "Drops", qubes_vpn_drops)
        return qubes_vpn_drops.merged(told, silent, names)

    found, silent = _ask(look)
    if as_text:
        return qubes_vpn_drops.text(found, silent)
    return {"rows": found, "silent": silent}


def _collected(machine, service, form):
    """What the VPN and resolver qubes answer to a *service*; form: the module that reads it."""
    roles = (qubes_vpn_network.TUNNEL, qubes_vpn_network.RESOLVER)
    names = [qube.name for qube in qubes_vpn_network.look(machine) if qube.role in roles]
    limits = {"most": form.MOST, "seconds": form.SECONDS}
    return qubes_vpn_collect.collect(_connection(), names, service, form.read, **limits)


def _guard():
    """What this minion's pillar promises; None where there is none."""
    if not _document(None):
        return None
    return qubes_vpn_guard.guard_of(qubes_vpn_plan.guard(_model()))


def _write(path, text):
    """Makes *text* the file's, for root only."""
    if not Path(path).is_absolute():
        raise CommandExecutionError(f"path={path}: write the whole path, such as /tmp/{path}")
    try:
        qubes_vpn_configure.replace(Path(path), f"{text}\n".encode(), 0o600)
    except OSError as error:
        raise CommandExecutionError(f"path={path}: cannot be written: {error.strerror}") from None


def _ask(question):
    """The answer to *question*, a function of a dry :class:`qubes_vpn_machine.Machine`...

    ...and of what earlier runs wrote last (:func:`qubes_vpn_words.last_written`).
    """
    if not HAS_QUBESADMIN:
        raise CommandExecutionError("this works in dom0: qubesadmin is not here")
    try:
        with in_words("the machine could not be read"):
            folder, root = _folder(), __opts__["root_dir"]
            machine = Machine(_connection(), dry=True, record=Record(folder), root=root)
            return question(machine, last_written(machine, folder))
    except Refused as refused:
        raise CommandExecutionError(str(refused)) from None


def part(pillar, minion):
    """What the *minion*, a template or a qube, has to do with *pillar*; runs on that minion.

    Returns ``{"problems": [text...], "role": "template" | "qube" | None, "args": {...}}``, for a
    qube also ``in_template``, whether its template has the killswitch, and for a template
    ``needs``, of :func:`qubes_vpn_packages.needs`.  args: see :func:`qubes_vpn_part.part`.  There
    is never a role when there are problems.

    CLI Example::

        qubesctl --skip-dom0 --targets=sys-vpn qubes_vpn.part '{}' sys-vpn
    """
    if not pillar:
        fix = "In dom0, name it in /srv/pillar/qubes_vpn/init.top, as pillar.example says."
        return {"problems": [f"pillar: {minion} is given no qubes_vpn. {fix}"], "role": None}
    model, problems = qubes_vpn_model.read(pillar)
    if problems:
        return {"problems": [problem.text() for problem in problems], "role": None}
    role, args = qubes_vpn_part.part(model, minion)
    if role is None:
        here = ", ".join(qubes_vpn_part.targets(model))
        what = f"{minion} has no part in this pillar: only dom0, {here} have one"
        return {"problems": [what], "role": None}
    told = {"problems": [], "role": role, "args": args}
    if role == "qube":
        return {**told, "in_template": qubes_vpn_killswitch.IN_TEMPLATE.exists()}
    try:
        return {**told, "needs": qubes_vpn_packages.needs(args["software"]["kinds"])}
    except qubes_vpn_packages.Unsupported as error:
        return {"problems": [f"{minion}: {error}."], "role": None}


def template_ready(kinds, minimal=False):
    """Whether this template can carry tunnels, and what it lacks; runs in the template.

    kinds: a list of ``wireguard``, ``openvpn``, ``mullvad`` and, of a resolver, ``dnscrypt``.
    minimal: whether it should have no desktop.  They are no pillar's, because a function that is
    called by salt-ssh has none.
    Returns ``{"ready": True | False, "lacks": [text...]}``: each text says what is wrong and how
    to put it right.

    CLI Example::

        qubesctl --skip-dom0 --targets=t-vpn qubes_vpn.template_ready '[wireguard]' minimal=True
    """
    if HAS_QUBESADMIN:
        fix = "qubesctl --skip-dom0 --targets=TEMPLATE qubes_vpn.template_ready KINDS"
        raise CommandExecutionError(f"this is dom0, and a template looks at itself: {fix}")
    known = ", ".join(qubes_vpn_packages.SERVICES)
    if not isinstance(kinds, list) or not kinds or {*kinds} - {*qubes_vpn_packages.SERVICES}:
        raise CommandExecutionError(f"kinds={kinds}: write a list, '[wireguard]', of: {known}")
    lacks = qubes_vpn_template.lacks(kinds, minimal)
    return {"ready": not lacks, "lacks": [f"{lack.text}." for lack in lacks]}


def status(form="text"):
    """How the VPN is doing; by where it runs.

    In dom0: every chain, tunnel, resolver and killswitch on one screen, and how far the machine is
    from the pillar.  form: ``text`` or ``data``.
    In a VPN qube: its killswitch, in a resolver qube: its rules; what is wrong with them.

    CLI Example::

        qubesctl qubes_vpn.status
        qubesctl --skip-dom0 --targets=sys-vpn qubes_vpn.status
    """
    if HAS_QUBESADMIN:
        subject, report, differing = _ask(_looked_at)
        found = qubes_vpn_overview.data(subject, report, differing)
        __context__["retcode"] = int(bool(report.findings or differing))
        return qubes_vpn_overview.text(found) if _is_text(form) else found
    if qubes_vpn_resolver.installed() and not qubes_vpn_killswitch.FLAG.exists():
        return qubes_vpn_resolver.status()
    here = (qubes_vpn_killswitch.FLAG, qubes_vpn_killswitch.IN_TEMPLATE, qubes_vpn_killswitch.IN_RW)
    if not any(path.exists() for path in here):
        raise CommandExecutionError("no killswitch here: this is not a VPN qube of the formula")
    return qubes_vpn_killswitch.status()


def doctor(form="text"):
    """What is wrong with the machine's VPN, each with its fix; runs in dom0.

    Qubes that run are asked; nobody is started.  form: ``text`` or ``data``.  Ends with 1 when
    there is something.

    CLI Example::

        qubesctl qubes_vpn.doctor
    """
    is_text = _is_text(form)
    _, report, _ = _ask(lambda machine, last: _looked_at(machine, last, plan_too=False))
    __context__["retcode"] = qubes_vpn_finding.exit_code(report)
    return qubes_vpn_finding.text(report) if is_text else qubes_vpn_finding.data(report)


def restarts(form="text"):
    """Which running qubes are to be restarted, in order, and what that does to others (R14).

    Because their template, or what they are made from, has changed since they were started, or
    because they have been running for longer than the pillar's ``updates.restart_days``.  Runs in
    dom0; restarts nothing.  form: ``text`` or ``data``.  Ends with 1 when there are any.

    CLI Example::

        qubesctl qubes_vpn.restarts
    """
    is_text = _is_text(form)
    days = _model().restart_days if _document(None) else qubes_vpn_updates.RESTART_DAYS

    def look(machine, _):
        inventory = qubes_vpn_inventory.take(machine, {})
        old, unknown = qubes_vpn_checkup.outdated(machine.app, inventory, inventory["qubes"])
        for name, why in qubes_vpn_updates.running_since_unknown(inventory):
            unknown[name] = f"{unknown[name]}; {why}" if name in unknown else f"{name}: {why}"
        return qubes_vpn_restarts.needed(inventory, old, days), unknown

    found, unknown = _ask(look)
    __context__["retcode"] = int(bool(found or unknown))
    if is_text:
        return qubes_vpn_restarts.text(found, unknown)
    return {"restarts": [each._asdict() for each in found], "unknown": unknown}


def connect(name=None, test=False):
    """Brings the tunnel of the VPN qube *name* up, and waits for it; runs in dom0.

    name: may be left out where there is one tunnel alone.  test: nothing is done.

    CLI Example::

        qubesctl qubes_vpn.connect sys-vpn
    """
    return _switch(name, "Connect", "is up", test)


def disconnect(name=None, test=False):
    """Takes the tunnel of the VPN qube *name* down, until it is connected or the qube restarts.

    Who is behind it is offline meanwhile: the killswitch stays.  test: nothing is done.

    CLI Example::

        qubesctl qubes_vpn.disconnect sys-vpn
    """
    return _switch(name, "Disconnect", "is down; who is behind it is offline", test)


def switch(name, profile, lasting=False, test=False):
    """Brings the tunnel of the VPN qube *name* up with another *profile* of the pillar's.

    profile: a file name, the pillar's ``profile`` or one of its ``profiles``.  After a restart of
    the qube it is the pillar's ``profile`` again.
    lasting: once it is up, *profile* and the pillar's ``profile`` change places in the file in
    which the pillar has them: see :mod:`qubes_vpn_lasting`.  Where that cannot be, nothing is done.
    test: nothing is done.

    CLI Example::

        qubesctl qubes_vpn.switch sys-vpn wg-de.conf
        qubesctl qubes_vpn.switch sys-vpn wg-de.conf lasting=True test=True
    """
    model = _model()
    _expect_tunnel(model, name)
    service, known = model.services[name], _profiles(model, name)
    if profile not in known:
        names = ", ".join(known) or "none"
        what = f"{profile} is no profile of {name} in the pillar, which has: {names}"
        raise CommandExecutionError(f"{what}. Add it to tunnels: {name}: profiles")
    done = f"is up with {profile}"
    if not lasting or profile == service.profile:
        more = f" {profile} is the pillar's already." if lasting else ""
        return _switch(name, "Switch", done, test, profile) + more
    edit = _lasting(service, profile)
    told = _switch(name, "Switch", done, test, profile, lasting=edit.path)
    exchanged = f"'profile' is {profile} there, and {edit.former} one of 'profiles'"
    if test or __opts__["test"]:
        return f"{told} {edit.path} would be changed: {exchanged}."
    try:
        edit.write()
    except qubes_vpn_lasting.NotLasting as why:
        __context__["retcode"] = 1
        more = _noted("not made lasting", name, file=edit.path)
        return (
            f"{told} But the pillar is as it was, and so that holds until the next run or start: "
            f"{why}. {_by_hand(service, profile)}{more}"
        )
    run = f"sudo qubesctl --skip-dom0 --targets={service.home()} state.sls qubes.network.sys-vpn"
    return (
        f"{told} {edit.path} is changed: {exchanged}. Who makes the pillar elsewhere changes it "
        f"there, too: {_set(service, profile)}\n{name} has it at its next start once this has run: "
        f"{run}"
    )


def _lasting(service, profile):
    """The edit of the pillar's file that makes *profile* the *service*'s; nothing is done."""
    steps = [
        step
        for step in qubes_vpn_plan.plan(_model())
        if step.state == "firewall" and step.args["name"] in (service.name, service.home())
    ]
    told = _ask(lambda machine, last: qubes_vpn_foretell.foretell(machine, steps, last))
    # The qube judges a profile by the endpoints that were applied: the next run, by the pillar's.
    if any(step["changes"] or step["problem"] for step in told):
        raise CommandExecutionError(
            f"{service.name}: not switched. It could not last: the firewall list of {service.name} "
            f"is not the pillar's, and so nobody knows whether the pillar's endpoints have the "
            f"server of {profile}. Apply the pillar first: sudo qubesctl "
            f"--targets={service.home()} state.sls qubes.network.sys-vpn"
        )
    try:
        return qubes_vpn_lasting.edit(__opts__, __grains__, _document(None), service, profile)
    except qubes_vpn_lasting.NotLasting as why:
        raise CommandExecutionError(
            f"{service.name}: not switched. It could not last: {why}. {_by_hand(service, profile)}"
        ) from None


def _by_hand(service, profile):
    """How to do the edit of :func:`_lasting` without it."""
    return (
        f"By hand, under tunnels: {service.name}: let 'profile' be {profile}, and write "
        f"{service.profile} for it in 'profiles'. In the qube where the pillar is made: "
        f"{_set(service, profile)}"
    )


def _set(service, profile):
    return f"qubes-vpn set PILLAR tunnels.{service.name}.profile {shlex.quote(profile)}"


def bypass(do="show", minutes=None, test=False):
    """Lets one disposable past the VPN for some minutes, for a hotel's portal; runs in dom0.

    do: ``open``, ``close`` or ``show``, which also tells when there was one before.  minutes: with
    ``open``, at most, and if left out, those of the pillar's ``bypass``.  It is ended by itself;
    see /srv/salt/qubes/network/docs/bypass.md.  test: nothing is opened or closed.

    CLI Example::

        qubesctl qubes_vpn.bypass open minutes=10
        qubesctl qubes_vpn.bypass close
    """
    if do not in ("open", "close", "show"):
        raise CommandExecutionError(f"{do}: write open, close or show")
    if minutes is not None and do != "open":
        raise CommandExecutionError(f"minutes={minutes}: only with open")
    if not HAS_QUBESADMIN:
        raise CommandExecutionError("this works in dom0: qubesadmin is not here")
    try:
        with in_words("the machine could not be read"):
            record = Record(_folder())
            dry = bool(test or __opts__["test"]) or do == "show"
            machine = Machine(_connection(), dry=dry, record=record, root=__opts__["root_dir"])
            if do == "open":
                return qubes_vpn_bypass.opened(machine, _model(), minutes, qubes_vpn_record.user())
            if do == "close":
                changes = {}
                qubes_vpn_bypass.closed(machine, changes, "bypass", qubes_vpn_record.user())
                done = "Would be closed" if dry else "Closed"
                return f"{done}: {', '.join(changes)}." if changes else "No bypass is open."
            open_now = qubes_vpn_bypass.standing(machine)
            __context__["retcode"] = int(bool(open_now))
            return qubes_vpn_bypass.told(machine)
    except Refused as refused:
        raise CommandExecutionError(str(refused)) from None


def events(form="text"):
    """Who did what from dom0 beside runs: bypasses, connected and switched tunnels; oldest first.

    form: ``text`` or ``data``.

    CLI Example::

        qubesctl qubes_vpn.events
    """
    try:
        lines = qubes_vpn_record.read(_folder())
    except qubes_vpn_record.Unusable as unusable:
        raise CommandExecutionError(str(unusable)) from None
    found = qubes_vpn_record.events(lines)
    if not _is_text(form):
        return found
    return "\n".join(map(qubes_vpn_record.told, found)) or "none"


def _switch(name, service, done, dry, profile=None, **more):
    """Has a tunnel's qube do the *service*, and what there is to say of it.

    dry: nothing is done.  more: for the record.
    """
    model = _model()
    if name is None and len(model.tunnels()) == 1:
        name = model.tunnels()[0]
    _expect_tunnel(model, name)
    if not HAS_QUBESADMIN:
        raise CommandExecutionError("this works in dom0: qubesadmin is not here")
    if dry or __opts__["test"]:
        try:
            qubes_vpn_ask.expect_running(_connection(), name)
        except (NoAnswer, Refused) as why:
            raise CommandExecutionError(str(why)) from None
        return f"Would ask {name} to {service.lower()}: its tunnel {done} then."
    more = {"profile": profile, **more} if profile else {}
    argument = qubes_vpn_told.profile_id(profile) if profile else ""
    asked = f"asked to {service.lower()}"
    try:
        told = qubes_vpn_checkup.switch(_connection(), name, service, argument)
    except Unsure as why:
        silent = isinstance(why, Silent)
        answer = "none in time" if silent else "not that it is done"
        what = f"{why} Whether it was done is not known." if silent else str(why)
        noted = _noted(asked, name, **more, answer=answer)
        raise CommandExecutionError(f"{what}{noted}") from None
    except (NoAnswer, Refused) as why:
        raise CommandExecutionError(str(why)) from None
    except BaseException:  # such as Ctrl-C: the qube goes on
        _noted(asked, name, **more, answer="not waited for")
        raise
    if told["former"]:
        known = {qubes_vpn_told.profile_id(each): each for each in _profiles(model, name)}
        more["former"] = known.get(told["former"], told["former"])
    words = {"Connect": "connected", "Disconnect": "disconnected", "Switch": "switched"}
    return f"The tunnel of {name} {done}." + _noted(words[service], name, **more)


def _expect_tunnel(model, name):
    tunnels = model.tunnels()
    if name not in tunnels:
        what = f"{name} is no tunnel of the pillar" if name else "name a tunnel"
        raise CommandExecutionError(f"{what}: {', '.join(tunnels)}")


def _folder():
    """Where the record lies."""
    return __opts__.get("qubes_vpn_folder", qubes_vpn_record.FOLDER)


def _noted(event, name, **more):
    """Puts an *event* of the qube *name* on record; a sentence where that cannot be, else none."""
    record = Record(_folder())
    try:
        record.event(event, name, qubes_vpn_record.user(), **more)
    except qubes_vpn_record.Unusable as unusable:
        return f" Who did it is not recorded: {unusable}"
    return ""


def _profiles(model, name):
    """The names of the pillar's profiles of a tunnel, the active one first."""
    service = model.services[name]
    return [each for each in (service.profile, *service.profiles) if each]


def _looked_at(machine, last, plan_too=True):
    """``(subject, report, names of steps that would change something)`` of the machine."""
    model = _model()
    subject = qubes_vpn_checkup.subject(machine, model, last, _connection())
    differing = []
    if plan_too:
        steps = qubes_vpn_foretell.foretell(machine, qubes_vpn_plan.plan(model), last)
        differing = [step["id"] for step in steps if step["changes"] or step["problem"]]
    return subject, qubes_vpn_doctor.examine(subject), differing


def _model():
    model, problems = qubes_vpn_model.read(_document(None))
    if problems:
        raise CommandExecutionError("\n".join(problem.text() for problem in problems))
    return model


def _is_text(form):
    if form not in ("text", "data"):
        raise CommandExecutionError(f"form={form}: write text or data")
    return form == "text"


def verify_plan(part="sys-vpn", pillar=None, options=None):
    """The tests of ``qubes.tests.PART``, in order, or why there are none; runs none of them.

    part: ``sys-vpn`` or ``sys-dns``.  options: ``{"destructive": true}``, as ``qubes_vpn_tests`` in
    the pillar has it: whether a tunnel may be taken down for a while; default: what the pillar says
    in ``tests``.  Returns ``{"problems": [text...], "tests": [{"id", "what", "of"}...],
    "destructive": bool}``.

    CLI Example::

        qubesctl qubes_vpn.verify_plan sys-dns
    """
    if not HAS_QUBESADMIN:
        raise CommandExecutionError("this works in dom0: qubesadmin is not here")
    model, problems = qubes_vpn_model.read(_document(pillar))
    texts = [problem.text() for problem in problems]
    if options is not None and options not in ({"destructive": True}, {"destructive": False}):
        texts.append("pillar: qubes_vpn_tests: not known. Write {destructive: true} or nothing.")
    if texts:
        return {"problems": texts, "tests": [], "destructive": False}
    destructive = (options or model.tests)["destructive"]
    found = [test._asdict() for test in qubes_vpn_verify.tests(model, part)]
    return {"problems": [], "tests": found, "destructive": destructive}


def _document(pillar):
    return __pillar__.get("qubes_vpn") if pillar is None else pillar
