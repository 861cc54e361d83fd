# SPDX-License-Identifier: GPL-2.0-or-later
"""What a plan would do to a machine that is not this one: asked of dom0's code, shown on a screen.

The machine is an embedded Qubes: a copy that nobody depends on.
"""

import shutil
from typing import NamedTuple

from qubes_vpn_formula import inventory
from qubes_vpn_formula.console import say
from qubes_vpn_formula.embedded import dom0
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.errors import UserError, read_bytes
from qubes_vpn_inventory import MORE


class Asked(NamedTuple):
    """A machine to be asked.  machine: a dry ``qubes_vpn_machine.Machine``; last: what earlier
    runs wrote on it, see ``qubes_vpn_words.last_written``; lacks: facts that its inventory does not
    tell, because it is of an earlier version, see ``qubes_vpn_inventory.MORE``."""

    machine: object
    last: dict
    lacks: frozenset = frozenset()

    def foretell(self, steps):
        """See :func:`qubes_vpn_foretell.foretell`."""
        import qubes_vpn_foretell  # imports qubesadmin, which is there once there is a machine

        return qubes_vpn_foretell.foretell(self.machine, steps, self.last)


def of_inventory(file, folder):
    """The machine of the inventory *file*; its copy is made in *folder*.  Raises UserError."""
    path, taken = folder / "qubes.json", inventory.read(file)
    inventory.write_state(taken, path, file)
    lacks = frozenset({*MORE} - {*taken.get("more", ())})
    return Asked(dom0.machine(path, dry=True), inventory.last_written(taken), lacks)


def of_embedded(state_file, folder):
    """An embedded Qubes, by its state file (``fresh``: a new one); as :func:`of_inventory`."""
    path = folder / "qubes.json"
    if state_file != "fresh":
        _copy(state_file, path)
    return Asked(dom0.machine(path, dry=True), {})


def _copy(source, path):
    read_bytes(source)  # says what is wrong with the file
    shutil.copyfile(source, path)
    try:
        EmbeddedQubes(path)
    except (ValueError, KeyError, TypeError, AttributeError):
        what = "this is no embedded Qubes' state file"
        raise UserError(what, "Name one, or write 'fresh'.", file=source) from None


def is_something(told):
    """Whether a run would do anything, or be refused."""
    return any(step["changes"] or step["problem"] for step in told)


def show(told, model):
    """Prints the steps for somebody who depends on that machine."""
    for number, step in enumerate(told, 1):
        _show_step(f"{number:3}. ", step)
    say()
    _show_clear(model)
    _show_end(told)


def _show_step(number, step):
    changes, problem = step["changes"], step["problem"]
    if changes is None:
        say(f"{number}{step['id']}  (not foretold)", "dim")
    elif step["note"]:
        first, *more = step["note"].splitlines()
        say(f"{number}{step['id']}  ({first})", "dim")
        for line in more:
            say(f"       {line}", "dim")
    elif not changes and not problem:
        say(f"{number}{step['id']}  (is so already)", "dim")
        for words in step["remarks"]:
            say(f"       {words}", "yellow")
    else:
        say(f"{number}{step['id']}", "bold red" if problem else "bold")
        for key, change in changes.items():
            for line in _lines(key, **change):
                say(f"       {line}", "green")
        by_hand = [words for words in step["words"] if "by hand)" in words]
        for words in by_hand + step["remarks"]:
            say(f"       {words}", "yellow")
        say(f"       {step['why']}")
        if problem:
            say(f"       refused: {problem}", "red")


def _lines(key, old, new):
    """One change, from what to what; of a firewall list, what goes and what comes."""
    if key == "firewall":
        before, after = old.split("\n"), new.split("\n")
        yield "firewall:"
        yield from (f"  - {rule}" for rule in before if rule not in after)
        yield from (f"  + {rule}" for rule in after if rule not in before)
    elif old is None:
        yield f"{key}: {new}"
    else:
        yield f"{key}: {old} -> {new}"


def _show_clear(model):
    """Who is past the VPN because the pillar says so (R05)."""
    for name in model.outside_vpn:
        way = " -> ".join([name, *model.path(model.routes[name])])
        say(f"In clear by choice, as outside_vpn says: {way}", "red")
    if model.whonix == "direct":
        key = "topology" if model.whonix_gateway in model.chain else "whonix"
        said = f"{key}: {getattr(model, key)}"
        say(f"Past the VPN by choice, as '{said}' says: {model.whonix_gateway}", "red")


def _show_end(told):
    changed = sum(bool(step["changes"]) for step in told)
    left = sum(step["changes"] is None for step in told)
    if any(step["problem"] for step in told):
        say(
            f"{len(told)} steps: {changed} would be changed, then the run stops, and {left} steps "
            "after it are not foretold.",
            "bold red",
        )
    elif changed:
        say(f"{len(told)} steps: {changed} would be changed, the rest is so already.", "bold")
    else:
        say(f"{len(told)} steps: nothing to do, all is so already.", "bold green")
