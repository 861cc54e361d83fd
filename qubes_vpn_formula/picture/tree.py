# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's network as a forest, uplinks to clients, and what flows along each edge."""

from typing import NamedTuple

from qubes_vpn_network import CLEAR, CLIENT, CLOSED, OFFLINE, SHELTERED, TOR, TUNNEL, UPLINK

#: What a qube and all behind it send to its netvm.  What is inside comes to a tunnel or to Tor
#: later; idle carries nobody's packets.
INSIDE, IDLE = "inside", "idle"
#: One that has another inside: outer and inner.
NESTED = {
    (TUNNEL, TUNNEL): "tunnel in a tunnel",
    (TUNNEL, TOR): "Tor in a tunnel",
    (TOR, TUNNEL): "tunnel in Tor",
}
#: The order in which flows are drawn beside each other.
FLOWS = (TUNNEL, TOR, *NESTED.values(), INSIDE, CLEAR, CLOSED, IDLE)
_OF_CLIENT = {SHELTERED: INSIDE, CLEAR: CLEAR, CLOSED: CLOSED}


class Node(NamedTuple):
    """A qube that carries others' packets.

    nodes: those behind it that carry packets too.  leaves: the qubes behind it that do not.
    flows: what it sends on, some of FLOWS in that order.  count: of all qubes behind it.
    """

    qube: object
    nodes: tuple
    leaves: tuple
    flows: tuple
    count: int


class Forest(NamedTuple):
    """uplinks: nodes that are the way out.  cut: nodes without a netvm that are none.
    offline: qubes without a netvm and without clients."""

    uplinks: tuple
    cut: tuple
    offline: tuple

    def all(self):
        """Every qube in it, in no order."""
        todo = [*self.uplinks, *self.cut]
        found = [*self.offline]
        while todo:
            node = todo.pop()
            found += [node.qube, *node.leaves]
            todo += node.nodes
        return found


def grow(qubes):
    """The :class:`Forest` of *qubes* (``qubes_vpn_network.Qube``)."""
    behind = {}
    for qube in qubes:
        behind.setdefault(qube.netvm, []).append(qube)
    tops = behind.get(None, ())
    return Forest(
        uplinks=tuple(_node(qube, behind) for qube in tops if qube.way == UPLINK),
        cut=tuple(
            _node(qube, behind) for qube in tops if qube.way == OFFLINE and qube.name in behind
        ),
        offline=tuple(qube for qube in tops if qube.way == OFFLINE and qube.name not in behind),
    )


def _node(qube, behind):
    clients = behind.get(qube.name, ())
    inner = [each for each in clients if each.role != CLIENT or each.name in behind]
    nodes = [_node(each, behind) for each in inner]
    leaves = [each for each in clients if each not in inner]
    return Node(
        qube=qube,
        nodes=tuple(sorted(nodes, key=lambda node: (node.qube.way == CLEAR, -node.count))),
        leaves=tuple(leaves),
        flows=_flows(qube, nodes, leaves),
        count=sum(node.count + 1 for node in nodes) + len(leaves),
    )


def _flows(qube, nodes, leaves):
    behind = {flow for node in nodes for flow in node.flows}
    if qube.role in (TUNNEL, TOR):
        inner = [NESTED[qube.role, one] for one in _outermost(behind) if (qube.role, one) in NESTED]
        return (CLOSED if qube.way in (CLOSED, OFFLINE) else (*inner, qube.role)[0],)
    own = [qube] if qube.role == CLIENT else []
    found = behind | {*flows_of([*leaves, *own])}
    return tuple(flow for flow in FLOWS if flow in (found - {IDLE} or {IDLE}))


def _outermost(flows):
    """What is seen of *flows* from outside: Tor before tunnels."""
    nested = {flow: outer for (outer, _inner), flow in NESTED.items()}
    seen = {nested.get(flow, flow) for flow in flows}
    return [each for each in (TOR, TUNNEL) if each in seen]


def flows_of(clients):
    """What *clients*, which carry nobody's packets, send."""
    found = {_OF_CLIENT[qube.way] for qube in clients if qube.way in _OF_CLIENT}
    return tuple(flow for flow in FLOWS if flow in found)


def summary(qubes):
    """How many get out how: ``(text, way)`` pairs, of clients only."""
    clients = [qube for qube in qubes if qube.role == CLIENT]
    through = {}
    for qube in clients:
        if qube.way == SHELTERED:
            through[qube.exit] = through.get(qube.exit, 0) + 1
    told = [(f"{count} through {name}", SHELTERED) for name, count in sorted(through.items())]
    for way, words in ((CLEAR, "in clear"), (CLOSED, "cut off"), (OFFLINE, "offline")):
        if count := sum(qube.way == way for qube in clients):
            told.append((f"{count} {words}", way))
    return told
