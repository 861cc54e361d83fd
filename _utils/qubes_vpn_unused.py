# SPDX-License-Identifier: GPL-2.0-or-later
"""Service qubes of an earlier pillar, or topology, that this one does not name.

None is removed: a VPN qube holds a login, and its owner may want it back.  Its firewall list, its
services and its netvm stay, so it is as closed as it was.  What a run set to start with the machine
is set not to: it would log in at each boot, for nobody.

Which ones were ours the record says: to ask every netvm for its features costs a call for each, in
each run (R94).  They are asked where the record has made nobody; the audit (A603) asks always.
"""

import qubes_vpn_record
import qubes_vpn_shelters
from qubes_vpn_qubesd import Refused

_FLAGS = (qubes_vpn_shelters.FLAG, qubes_vpn_shelters.RESOLVER_FLAG)


def tell(machine, changes, known):
    """Says which there are, and how to remove them; and sets off their autostart.

    known: names that the pillar has.
    """
    try:
        lines = machine.recorded()
    except Refused:
        lines = []  # that is told by the step that needs it
    made = {(line["made"], line["uuid"]) for line in lines if "made" in line}
    written = qubes_vpn_record.written(lines)
    noted = {line["of"] for line in lines if line.get("key") == "autostart"}
    carrying = {*machine.wiring().values()}
    for name in machine.names():
        if name in known or not _is_service(machine, name, made, written):
            continue
        line = written.get(("property", name, "autostart"), {})
        uuid = machine.value(name, "uuid")
        ours = line.get("new") is True and line.get("uuid") == uuid
        # A firewall qube has it from when it was made, which is one line.
        ours = ours or ((name, uuid) in made and name not in noted)
        if ours and machine.value(name, "autostart") is True:
            off = {}
            machine.set(name, {"autostart": False}, off)
            changes[f"{name}: autostart"] = off["autostart"]
        if name not in carrying:
            login = " It may hold a login." * _has(machine, name, qubes_vpn_shelters.FLAG)
            starts = machine.value(name, "autostart") is True
            boot = f" It starts with the machine (qvm-prefs {name} autostart false)." * starts
            first = f"qvm-shutdown --wait {name} && " * machine.running(name)
            machine.remark(
                f"{name} is left over: the pillar does not name it, and nobody hangs on it."
                f"{login}{boot} It is never removed by a run; if you do not need it: "
                f"{first}qvm-remove {name}."
            )


def _is_service(machine, name, made, written):
    """Whether it is one of ours: a run made it to carry others, or set its service."""
    if machine.klass(name) not in ("AppVM", "DispVM"):
        return False
    # These are read at once for every qube; a feature is a call for each.
    carries = machine.value(name, "provides_network") is True
    if not carries and machine.value(name, "template_for_dispvms") is not True:
        return False
    uuid = machine.value(name, "uuid")
    if carries and (name, uuid) in made:
        return True
    if not made or (name, uuid) in made:
        return any(_has(machine, name, flag) for flag in _FLAGS)
    flags = (written.get(("feature", name, flag), {}) for flag in _FLAGS)
    return any(line.get("new") == "1" and line.get("uuid") == uuid for line in flags)


def _has(machine, name, flag):
    return qubes_vpn_shelters.is_flagged(machine, name, flag)
