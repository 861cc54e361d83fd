# SPDX-License-Identifier: GPL-2.0-or-later
"""Which qubes run on what is not their template's any more, and in which order to restart them.

A qube has its template's root volume as that was when it started, a disposable also the private
one of what it was made from (R14).  qubesd compares them (qubes-core-admin, ``is_outdated`` in
``qubes/storage``; a pool of the old driver ``file`` cannot tell, and then says no).
"""

from typing import NamedTuple

import qubes_vpn_updates
from qubes_vpn_inventory import runs, value, way

#: By class: the volumes that a qube has from another one.
_COPIES = {"AppVM": ("root",), "DispVM": ("root", "private")}
_WHY = {
    "root": "its template has changed since it was started",
    "private": "what it is made from has changed since it was started",
}


class Restart(NamedTuple):
    """One qube, or a template that is on.

    why: sentences without a full stop.  behind: names of running qubes whose way out leads through
    it: while it is off they are offline, and their connections break.  how: what to type in dom0.
    """

    name: str
    why: tuple
    behind: tuple
    how: str


def copies(qube):
    """The volumes that a qube of an inventory has from another one now; None: there is no qube."""
    return _COPIES.get(qube["class"], ()) if qube and runs(qube) else ()


def needed(inventory, old, days):
    """The :class:`Restart` of every qube that needs one, whoever carries others before these.

    old: ``{name: volumes}`` of :func:`qubes_vpn_checkup.outdated`.  days: after which a qube that
    runs is to be restarted.
    """
    why = {name: [_WHY[volume] for volume in volumes] for name, volumes in old.items()}
    for name, text in qubes_vpn_updates.long_running(inventory, days):
        why.setdefault(name, []).append(text)
    qubes = inventory["qubes"]
    ways = {name: way(qubes, name)[1:] for name in qubes}
    on = [name for name in qubes if qubes[name]["class"] == "TemplateVM" and runs(qubes[name])]
    for name in on:
        text = "it is on: what is changed in it is in nobody else until it is off"
        why.setdefault(name, []).append(text)
    order = sorted(why, key=lambda name: (name not in on, len(ways[name]), name))
    return [_restart(qubes, ways, name, why[name]) for name in order]


def _restart(qubes, ways, name, why):
    behind = sorted(each for each, up in ways.items() if name in up and runs(qubes[each]))
    on_it = any(ways[each][0] == name for each in behind)
    off = f"qvm-shutdown --wait {'--force ' if on_it else ''}{name}"
    stays_off = qubes[name]["class"] == "TemplateVM" or value(qubes[name], "auto_cleanup")
    how = off if stays_off else f"{off} && qvm-start {name}"
    return Restart(name, tuple(why), tuple(behind), how)


def text(found, unknown):
    """Those restarts as lines, for a screen."""
    lines = ["In this order:"] if found else []
    for number, each in enumerate(found, 1):
        lines += ["", f"{number}. {each.name}: {'; '.join(each.why)}"]
        if each.behind:
            lines.append(f"   Offline meanwhile, with broken connections: {', '.join(each.behind)}")
        lines.append(f"   {each.how}")
    lines += [f"NOT KNOWN {why}" for why in unknown.values()]
    return "\n".join(lines or ["Nothing is to be restarted."])
