# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0's first step: whether the qubes that the pillar names are what it takes them for.

What a later step would refuse after others have written, a firewall list replaced for one, is
refused here: all of it at once, before the first write.  The later steps ask again.
"""

import qubes_vpn_shelters
from qubes_vpn_moves import NO_CLIENT, no_network, shut_down_first
from qubes_vpn_qubesd import Refused

_AS = {"AppVM": "an AppVM", "DispVM": "a disposable"}
#: Of an earlier pillar: which service says so, what the qube was by it, and what it would keep.
_FORMER = {
    "tunnel": (
        qubes_vpn_shelters.FLAG,
        "a VPN qube",
        "that service, its template and its list of endpoints, so nothing of its clients would get "
        "out",
    ),
    "resolver": (
        qubes_vpn_shelters.RESOLVER_FLAG,
        "a resolver",
        "that service, whose rules pass nobody's DNS on",
    ),
}


def named(machine, changes, name, qubes, templates, netvms, dispvms):
    """Changes nothing.  Refused when one of *qubes* is missing, of a wrong class or in use.

    name: of the step.  qubes: ``{name: role}``, the roles those of :data:`_ROLES`.  templates: of
    qubes that a run makes, ``{name: template}``.  netvms: who of *qubes* carries others, and is not
    made.  dispvms: in what is opened what a qube opens in a disposable, ``{name: template for
    disposables}``, of those that are made, and of dom0.
    """
    problems = [
        f"{each} may go past the VPN, by a bypass that the pillar does not have. Close it first: "
        "qubesctl qubes_vpn.bypass close"
        for each in machine.bypasses()
        if machine.is_bypass(each)
    ]
    for qube, role in qubes.items():
        if problem := _ROLES[role](machine, qube):
            problems.append(problem)
        elif qube in netvms and machine.klass(qube) and _carries_nobody(machine, qube):
            problems.append(no_network(qube))
        elif problem := _other_role(machine, qube, role):
            problems.append(problem)
    for qube, template in templates.items():
        if problem := _of_template(machine, qube, qubes[qube], template, qubes):
            problems.append(problem)
    problems += [
        problem
        for opener, dispvm in dispvms.items()
        if (problem := _dispvm(machine, qubes, opener, dispvm))
    ]
    if problems:
        raise Refused("\n".join(dict.fromkeys(problems)))


def _carries_nobody(machine, name):
    return machine.value(name, "provides_network") is not True


def wrong_class(machine, name, wanted, is_tunnel=False):
    """Why a qube that is there cannot be the service qube of class *wanted*, or None."""
    klass = machine.klass(name)
    if klass in (None, wanted):
        return None
    written = ""
    if is_tunnel and klass == "DispVM":
        written = f" Or write tunnels.{name}.disposable: true, if it is one of ours."
    elif wanted == "DispVM":
        written = " Or write disposable: false."
    return (
        f"'{name}' exists ({klass}), and the pillar wants {_AS[wanted]} of it. Choose another name "
        f"in the pillar, or rename that one.{written} It is never replaced: what is in it would be "
        "lost."
    )


def _uplink(machine, name):
    return _there(machine, name, "Name the one that there is (pillar: uplink).")


def _gateway(machine, name):
    fix = "Create it, name the one that there is (pillar: whonix_gateway), or take Tor out of the "
    return _there(machine, name, f"{fix}pillar (whonix, topology).")


def _netvm(machine, name):
    return _there(machine, name, "Create it, or route nobody to it.")


def _optional_netvm(machine, name):
    """Where there is none, its clients have another one."""
    return _netvm(machine, name) if machine.klass(name) else None


def _server(machine, name):
    return _there(machine, name, "Create it, or name another one (pillar: updates, clock).")


def _client(machine, name):
    return _there(machine, name, "Create it, or take it out of the pillar.")


def _new_client(machine, name):
    """Of the layout, which makes it later."""
    return _client(machine, name) if machine.klass(name) else None


def _there(machine, name, fix):
    klass = machine.klass(name)
    if klass is None:
        return f"there is no qube '{name}'. {fix}"
    if klass in NO_CLIENT:
        return f"'{name}' is a {klass}, and no qube. Name another one."
    return None


def _made_before(machine, name):
    """By qubes.network.sys-vpn."""
    if machine.klass(name) is None:
        return f"'{name}' is not there yet: qubes.network.sys-vpn makes it. Run that first."
    return None


def _service_made_before(machine, name):
    if problem := _made_before(machine, name):
        return problem
    if _carries_nobody(machine, name):
        return f"'{name}' is not ready yet: qubes.network.sys-vpn sees to it. Run that first."
    return None


def _dispvm(machine, qubes, opener, name):
    """In a disposable of *name* things are opened.  A layout sets it where it makes a qube only."""
    key = "default_dispvm" if opener == "dom0" else f"layout.{opener}.default_dispvm"
    if opener != "dom0" and machine.klass(opener) and opener not in machine.unfinished():
        return None
    if machine.klass(name) is None and qubes.get(name) == "new client":
        return None  # the layout makes it so
    if machine.klass(name) is None:
        return f"there is no qube '{name}'. Create it, or name another one (pillar: {key})."
    if machine.value(name, "template_for_dispvms") is not True:
        return no_dispvm_template(name)
    return None


def no_dispvm_template(name):
    """Why a qube cannot be what disposables are made from."""
    fix = f"qvm-prefs {name} template_for_dispvms true."
    return f"'{name}' is no template for disposables: {fix}"


def _tunnel(machine, name):
    return wrong_class(machine, name, "AppVM", is_tunnel=True)


def _disposable(machine, name):
    return wrong_class(machine, name, "DispVM", is_tunnel=True)


def _appvm(machine, name):
    return wrong_class(machine, name, "AppVM")


def _firewall(machine, name):
    klass = machine.klass(name)
    if klass in NO_CLIENT:
        return f"'{name}' exists ({klass}) and is no qube: choose another name."
    return None


def _template(machine, name):
    klass = machine.klass(name)
    if klass not in (None, "TemplateVM"):
        return f"'{name}' is a qube ({klass}), not a template: choose another name."
    return None


def _of_template(machine, name, role, template, qubes):
    """What is wrong with a service qube's template, or with changing it now; None: nothing."""
    is_there = machine.klass(name) is not None
    if role in ("firewall", "new client") and is_there:
        return None  # it keeps what it has
    klass = machine.klass(template)
    if klass is None and template not in qubes:
        return (
            f"there is no template '{template}', of {name}. Install it (qvm-template install "
            f"{template}), or name another one in the pillar."
        )
    if role != "disposable" and klass not in (None, "TemplateVM"):
        return f"'{template}' is a qube ({klass}), not a template. Name a template in the pillar."
    if is_there and not _ROLES[role](machine, name) and machine.value(name, "template") != template:
        return running(machine, name)
    return None


def _other_role(machine, name, role):
    """Why a service qube that was made for another role cannot have this one, or None."""
    if role not in (*_FORMER, "firewall"):
        return None
    for former, (flag, what, kept) in _FORMER.items():
        if former != role and qubes_vpn_shelters.is_flagged(machine, name, flag):
            clients = sorted(each for each, netvm in machine.wiring().items() if netvm == name)
            off = ""
            if clients:
                off = f"take {', '.join(clients)} off it (qvm-prefs {clients[0]} netvm none), "
            reset = f"'qvm-firewall {name} reset', " if former == "tunnel" else ""
            service = flag.removeprefix("service.")
            return (
                f"'{name}' is {what} (its service {service} is on), and the pillar calls it a "
                f"{role}. It would keep {kept}. Choose another name for the {role}. Or, to use "
                f"this one: {off}'qvm-features --unset {name} {flag}', {reset}shut it down if it "
                "runs, and run this again."
            )
    return None


def running(machine, name):
    """Why the template of a qube cannot be changed now, or None."""
    if not machine.running(name):
        return None
    return (
        f"{name} is running, and its template can change only while it is halted. Shut it down "
        f"({shut_down_first(machine, name)}), then run this again."
    )


_ROLES = {
    "uplink": _uplink,
    "gateway": _gateway,
    "netvm": _netvm,
    "optional netvm": _optional_netvm,
    "tunnel": _tunnel,
    "disposable": _disposable,
    "home": _appvm,
    "resolver": _appvm,
    "firewall": _firewall,
    "client": _client,
    "new client": _new_client,
    "service made before": _service_made_before,
    "template made before": _made_before,
    "server": _server,
    "template": _template,
}
