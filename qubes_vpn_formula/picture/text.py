# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's network as lines: a tree from the Internet to the clients."""

from rich.text import Text
from rich.tree import Tree

import qubes_vpn_observers
from qubes_vpn_formula.picture import tree
from qubes_vpn_network import CLEAR, CLIENT, CLOSED, TOR, TUNNEL

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


def draw(console, view):
    """Prints a :class:`qubes_vpn_formula.picture.View` on a ``rich.console.Console``."""
    forest = tree.grow(view.qubes)
    for top, nodes in (("Internet", forest.uplinks), ("No way out", forest.cut)):
        if nodes or top == "Internet":
            shown = Tree(top)
            for node in sorted(nodes, key=_name):
                _branch(shown, node, view.was)
            console.print(shown)
    if forest.offline:
        names = [_named(qube, view.was) for qube in forest.offline]
        console.print(Text("Offline: ") + Text(", ").join(names))
    for text, way in view.notes:
        console.print(Text(text, style="red" if way == CLEAR else ""))
    if view.ways:
        console.print(f"\n{qubes_vpn_observers.text(view.ways)}")


def _branch(above, node, was):
    text = _named(node.qube, was)
    if node.qube.role in (TUNNEL, TOR):
        text.append("  tunnel" if node.qube.role == TUNNEL else "  Tor", style="bold green")
        for (_outer, inner), flow in tree.NESTED.items():
            if flow in node.flows:
                text.append(f", {'a tunnel' if inner == TUNNEL else 'Tor'} inside it")
        if node.qube.limited is False:
            text.append(", no firewall list", style="red")
    branch = above.add(text)
    for each in sorted([*node.nodes, *node.leaves], key=_name):
        if each in node.nodes:
            _branch(branch, each, was)
        else:
            branch.add(_leaf(each, was))


def _leaf(qube, was):
    text = _named(qube, was)
    if qube.way == CLEAR and qube.role == CLIENT:
        text.append(f"  {qube.clear()}", style="bold red")
    elif qube.way == CLOSED:
        text.append("  cut off", style="bright_black")
    return text


def _name(part):
    """Of a node or a qube."""
    return getattr(part, "qube", part).name


def _named(qube, was):
    text = Text(qube.name, style=_COLOURS.get(qube.label, ""))
    if qube.name in was:
        text.append(f"  ({was[qube.name]})", style="cyan")
    return text
