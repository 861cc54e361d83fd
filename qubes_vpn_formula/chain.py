# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's network as a tree, from the uplink to the clients."""

from rich.text import Text
from rich.tree import Tree

import qubes_vpn_guard

#: Label colours as terminals know them (black would be invisible on most).
_COLOURS = {
    "red": "red",
    "orange": "dark_orange",
    "yellow": "yellow",
    "green": "green",
    "gray": "bright_black",
    "blue": "blue",
    "purple": "magenta",
    "black": "bold",
}


def draw(console, wiring, labels, guard):
    """Prints the tree on *console* (a ``rich.console.Console``).

    wiring: every qube's netvm (a name or None).  labels: every qube's label.
    guard: a :class:`qubes_vpn_guard.Guard`, which knows what is in clear.
    """
    downstream = {}
    for name, netvm in wiring.items():
        downstream.setdefault(netvm, []).append(name)
    top = downstream.pop(None, [])
    tree = Tree("Internet")
    for name in sorted(name for name in top if name in downstream):
        _branch(tree, name, downstream, labels, guard, wiring)
    console.print(tree)
    offline = [name for name in sorted(top) if name not in downstream]
    if offline:
        console.print(
            Text.assemble("Offline: ", *_joined(_named(name, labels) for name in offline))
        )


def _branch(tree, name, downstream, labels, guard, wiring):
    text = _named(name, labels)
    clients = downstream.get(name, ())
    if name in guard.shelters:
        text.append("  tunnel", style="bold green")
    elif not clients and qubes_vpn_guard.may_be_in_clear(name, wiring, guard):
        text.append("  in clear", style="bold red")
    branch = tree.add(text)
    for client in sorted(clients):
        _branch(branch, client, downstream, labels, guard, wiring)


def _named(name, labels):
    return Text(name, style=_COLOURS.get(labels.get(name), ""))


def _joined(texts):
    for place, text in enumerate(texts):
        yield ", " if place else ""
        yield text
