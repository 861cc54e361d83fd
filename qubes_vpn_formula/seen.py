# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that is not this one, as its network is, and as it would be after a run."""

import contextlib
import tempfile
from pathlib import Path

import qubes_vpn_plan
from qubes_vpn_formula import foretold
from qubes_vpn_formula.picture import View
from qubes_vpn_guard import guard_of
from qubes_vpn_network import CLEAR, SHELTERED, look


@contextlib.contextmanager
def machine(inventory=None, embedded=None):
    """The ``foretold.Asked`` of an inventory's file or an embedded Qubes' state file."""
    with tempfile.TemporaryDirectory(prefix="qubes-vpn-seen-") as folder:
        if inventory:
            yield foretold.of_inventory(inventory, Path(folder))
        else:
            yield foretold.of_embedded(embedded, Path(folder))


def now(asked, model=None):
    """The machine as it is: a :class:`View`."""
    guard = model and guard_of(qubes_vpn_plan.guard(model))
    qubes = look(asked.machine, guard)
    if "ip" in asked.lacks:
        qubes = [qube._replace(ip=None) for qube in qubes]
    outside = model.fetched_outside() if model else {}
    notes = (*_without_tor(model, qubes), *_ways(asked.machine, guard, outside))
    return View("The machine now", qubes, notes)


def after(asked, model, before):
    """The machine after a run of the pillar's plan, and why the run would stop (None: it does not).

    With a layout, a run of `qubes.layout` comes after that.
    before: the :class:`View` of :func:`now`.  The machine is that of after the run from then on.
    """
    steps, run = qubes_vpn_plan.plan(model), "a run"
    if model.layout:
        steps, run = [*steps, *qubes_vpn_plan.layout(model)], "a run, and one of qubes.layout"
    told = asked.foretell(steps)
    refused = next((step["problem"] for step in told if step["problem"]), None)
    view = now(asked, model)
    netvms = {qube.name: qube.netvm for qube in before.qubes}
    was = {
        qube.name: _was(netvms[qube.name]) if qube.name in netvms else "new"
        for qube in view.qubes
        if netvms.get(qube.name, ...) != qube.netvm
    }
    title = f"After {run}" if not refused else f"After {run}, which is refused on the way"
    notes = ((f"Refused: {refused}", CLEAR),) if refused else ()
    return view._replace(title=title, was=was, notes=(*notes, *view.notes)), refused


def _without_tor(model, qubes):
    """Who has the VPN where Tor was meant, a line."""
    wanted = model.otherwise if model else {}
    names = [qube.name for qube in qubes if qube.way == SHELTERED and qube.name in wanted]
    if not names or model.whonix_gateway in {qube.name for qube in qubes}:
        return ()
    words = f"Not through Tor, because there is no {model.whonix_gateway}: {', '.join(names)}"
    return ((words, SHELTERED),)


def _was(netvm):
    return f"was on {netvm}" if netvm else "was offline"


def _ways(machine, guard, outside):
    """Ways round the VPN that no wire shows, a line each."""
    import qubes_vpn_ways  # imports qubesadmin, which is there once there is a machine

    if guard is None:
        return ()
    found = qubes_vpn_ways.of_dom0(machine, guard, outside)
    return tuple((f"In clear: {text}", CLEAR) for text in found)
