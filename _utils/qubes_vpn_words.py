# SPDX-License-Identifier: GPL-2.0-or-later
"""What is different from the pillar, in a user's words, and what of it was done by hand.

By hand is what is neither as the pillar says nor as an earlier run of ours left it, by the record.
"""

import qubes_vpn_record
from qubes_vpn_qubesd import rules_text

#: A firewall list that limits nothing: what qubesd gives every new qube.
_NO_LIST = "action=accept"
_SERVICE = "service."
_ON_THE_WAY = " on the way"
#: of what is not about a value: what is said, by what it was
_SAID = {
    "halted": "{} is halted, and is started first",
    "preloaded": "{}, a preloaded disposable, is discarded: it has the old netvm",
    "noted as shut down": "{} is noted as shut down by an interrupted run: the note goes",
    "noted as half made": "{} is noted as half made, and is not there: the note goes",
}
#: what dom0 names a qube for, by its property
_SERVED = {
    "default_netvm": "dom0's default_netvm is",
    "default_dispvm": "dom0's default_dispvm is",
    "updatevm": "dom0's updates are fetched by",
    "clockvm": "the time is fetched by",
    "templates' updates by": "templates' updates are fetched by",
}
#: of a step about several qubes: the netvm of the one that is named before
_NETVM = ": netvm"
#: rules that are told one by one
_MANY = 5


def sentences(name, changes, last):
    """What the *changes* of one step on *name* put right, a sentence each.

    changes: ``{key: {"old", "new"}}``, as the steps give them.
    last: of :func:`last_written`; what is neither so nor as the pillar says was changed by hand.
    What is taken offline on the way is added to it: a later step finds that so by our own hand.
    """
    if "qube" in changes or "clone" in changes:
        made = changes.get("qube") or changes["clone"]
        found = [f"there is no {name}: it is made ({made['new']})"]
        if "installed" in changes:
            source, by = changes["installed"]["new"].split(", ")
            found.insert(0, f"there is no template {source}: it is installed, {by}")
        return found
    found = []
    for key, change in changes.items():
        old, new = change["old"], change["new"]
        written = last.get(_place(name, key))
        by_hand = written is not None and written != old
        if key == "with it":
            found.append(f"with it, because they have no netvm of their own choice: {new}")
        elif old in _SAID:
            found.append(_SAID[old].format(key))
        elif new == "restarted":
            found.append(f"{key} runs, and is shut down and started again")
        elif key.endswith(_ON_THE_WAY):
            what = key.removesuffix(_ON_THE_WAY)
            last["dom0" if what in _SERVED else what, what if what in _SERVED else "netvm"] = new
            found.append(f"{what} comes off {old} until a later step")
        elif key == "firewall":
            found += _firewall(name, old.split("\n"), new.split("\n"), written)
        else:
            found.append(_value(name, key, old, new, by_hand))
    return found


def last_written(machine, folder):
    """What earlier runs wrote last, by the record in *folder*: ``{(qube, key): value}``.

    Keys and values are as *changes* have them; dom0's are the machine's.  What is told of a qube
    that was removed, and whose name another has now, does not count.  A record that cannot be read
    tells nothing: what is wrong with it says the first step that would change something.
    """
    try:
        lines = qubes_vpn_record.read(folder)
    except qubes_vpn_record.Unusable:
        return {}
    last = {}
    for (kind, name, key), line in qubes_vpn_record.written(lines).items():
        if "uuid" not in line or line["uuid"] == _uuid(machine, name):
            last[name, "firewall" if kind == "firewall" else key] = _shown(line["new"])
    return last


def _place(name, key):
    """Whose value a change is of, and its key."""
    if key.endswith(_NETVM):
        return key.removesuffix(_NETVM), "netvm"
    return "dom0" if key in _SERVED else name, key


def _uuid(machine, name):
    return machine.value(name, "uuid") if machine.klass(name) else None


def _shown(value):
    if isinstance(value, list):
        return rules_text(value)
    return "none" if value is None else value


def _value(name, key, old, new, by_hand):
    hand = " (set by hand)" if by_hand else ""
    if key == "netvm":
        if old == f"{new} (inherited)":
            here = f"{name} hangs on {new} as dom0's default_netvm says"
            return f"{here}{hand}, the pillar says so on its own"
        here = f"{name} is offline" if old == "none" else f"{name} hangs on {old}"
        wanted = "that it is offline" if new == "none" else new
        return f"{here}{hand}, the pillar says {wanted}"
    if key in _SERVED:
        return f"{_SERVED[key]} {old}{hand}, the pillar says {new}"
    if key.endswith(_NETVM):
        return _value(key.removesuffix(_NETVM), "netvm", old, new, by_hand)
    if key == "provides_network":
        off = " (switched off by hand)" if by_hand else ""
        return f"{name} provides no network{off}, the pillar says that it does"
    if key.startswith(_SERVICE):
        off = " (by hand)" if by_hand else ""
        service = key.removeprefix(_SERVICE)
        return f"{name}: service {service} is not switched on{off}, the pillar says on"
    return f"{name}: {key} is {_plain(old)}{hand}, the pillar says {_plain(new)}"


def _firewall(name, old, new, written):
    if old == [_NO_LIST]:
        hand = " (taken away by hand)" if written not in (None, _NO_LIST) else ""
        return [f"{name} has no firewall list{hand}, the pillar gives it one of {len(new)} rules"]
    known = new if written is None else written.split("\n")
    more = [rule for rule in old if rule not in new]
    less = [rule for rule in new if rule not in old]
    found = [
        f"{name}'s firewall list has '{rule}'{_hand(written, rule not in known, 'added')}, "
        "the pillar does not"
        for rule in more[:_MANY]
    ]
    found += [
        f"{name}'s firewall list lacks '{rule}'{_hand(written, rule in known, 'taken out')}, "
        "which the pillar has"
        for rule in less[:_MANY]
    ]
    for left in (len(more) - _MANY, len(less) - _MANY):
        if left > 0:
            found.append(f"and {left} more rules")
    return found or [f"{name}'s firewall list is in another order than the pillar's"]


def _hand(written, changed, how):
    return f" ({how} by hand)" if written is not None and changed else ""


def _plain(value):
    """As the pillar writes it."""
    return str(value).lower() if isinstance(value, bool) else "none" if value is None else value
