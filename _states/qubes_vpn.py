# SPDX-License-Identifier: GPL-2.0-or-later
"""The ``qubes_vpn`` states of dom0: each makes one thing so, through qubesadmin.

All of them return what they changed (``test=True``: what they would change, and change nothing),
and an error in words when a step is not possible or not safe.  They are not ``qvm.*``, which
writes in test mode and hides what it changed.
"""

try:
    import qubes_vpn_dom0
    from qubes_vpn_guard import guard_of
    from qubes_vpn_machine import Machine, Refused, connect, in_words

    HAS_QUBESADMIN = True
except ImportError:
    HAS_QUBESADMIN = False

__virtualname__ = "qubes_vpn"


def __virtual__():
    if not HAS_QUBESADMIN:
        return False, "qubes_vpn states work in dom0: qubesadmin is not here"
    return __virtualname__


def template(name, clone_of):
    """Template *name* exists, cloned from *clone_of* if it was missing, and has no netvm."""
    return _state(name, qubes_vpn_dom0.template, clone_of)


def present(name, label, template=None, settings=None, in_one_piece=False):
    """A qube *name* exists.

    If it is missing, an AppVM is made from *template* (default: dom0's default template) without
    a netvm and with *settings*, a mapping of properties.  A qube that exists stays as it is.
    *in_one_piece*: no later state completes it, so what an interrupted run leaves is refused.
    """
    return _state(name, qubes_vpn_dom0.present, label, template, settings or {}, in_one_piece)


def firewall(name, rules, enforced_by=None, optional=False):
    """The firewall list of *name* is exactly *rules* (as ``qvm-firewall`` writes them).

    Refused when *enforced_by*, the netvm that has to enforce it (default: the one that the qube
    has), would not.
    A qube that does not exist is an error, unless *optional*.
    """
    return _state(name, qubes_vpn_dom0.firewall, rules, enforced_by, optional=optional)


def qube(name, settings=None, features=None):
    """Qube *name* has these properties (*settings*) and *features*; others stay as they are."""

    def step(machine, name, changes):
        qubes_vpn_dom0.settings(machine, name, settings or {}, changes)
        qubes_vpn_dom0.features(machine, name, features or {}, changes)

    return _state(name, step)


def netvm(name, netvm, guard, optional=False):
    """Qube *name* has *netvm* (``none``: is offline) as its own choice.

    Refused when it may let a qube out in clear that is not, by *guard*: a mapping of ``uplink``,
    ``shelters`` (tunnels, and Whonix' gateway), ``services`` (the qubes that the pillar wires) and
    ``outside_vpn`` (who may be in clear).  A running qube's new netvm is started first.  A qube
    that does not exist is an error, unless *optional*.
    """
    return _state(name, qubes_vpn_dom0.netvm, _none(netvm), guard_of(guard), optional=optional)


def default_netvm(name, guard):
    """dom0's default_netvm is *name* (``none``: no netvm).  Refused as :func:`netvm` is."""

    def step(machine, name, changes):
        qubes_vpn_dom0.default_netvm(machine, _none(name), guard_of(guard), changes)

    return _state(name, step)


def _state(name, step, *arguments, optional=False):
    """One state's answer, from ``step(machine, name, *arguments, changes)``."""
    ret = {"name": name, "changes": {}, "result": True, "comment": "as the pillar says"}
    try:
        with in_words(f"{name}: qubesd said no"):
            machine = _machine()
            if optional and machine.klass(name) is None:
                return {**ret, "comment": f"there is no qube '{name}' yet; qubes.layout makes it"}
            step(machine, name, *arguments, ret["changes"])
    except Refused as refused:
        return {**ret, "result": False, "comment": str(refused)}
    if ret["changes"]:
        ret["comment"] = "would be changed" if __opts__["test"] else "changed"
        ret["result"] = None if __opts__["test"] else True
    return ret


def _machine():
    """One connection for a whole run; a dry run and a real one never share what they know."""
    key = f"qubes_vpn.machine.{'dry' if __opts__['test'] else 'real'}"
    if key not in __context__:
        __context__[key] = Machine(connect(), dry=__opts__["test"])
    return __context__[key]


def _none(netvm):
    return None if netvm == "none" else netvm
