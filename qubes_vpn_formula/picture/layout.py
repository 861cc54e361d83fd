# SPDX-License-Identifier: GPL-2.0-or-later
"""Where each part of a picture lies: a tidy tree, the Internet on the right, clients on the left.

Every node has a band of its own height for all that is behind it, so nothing overlaps however
wide it is.  Clients of one netvm share a panel, in columns, so that sixty qubes stay legible.
Lengths are pixels.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from qubes_vpn_formula.picture.tree import flows_of

TEXT, SMALL = 14, 11  # sizes of letters
CHIP, CHIP_GAP = 26, 6
BOX = 46
PANEL_HEAD, PANEL_PAD = 22, 10
ROWS = 12  # of chips in a panel, at most
ACROSS, BETWEEN = 64, 18  # from a node to its netvm; between two bands
APART = 13  # flows beside each other
#: Widths of letters in thousandths of their size: of Helvetica, Arial and Liberation Sans.
_WIDTHS = {
    222: "ijl",
    278: " !,./:;I[\\]ft",
    333: "()-`r",
    500: "Jckszvxy",
    556: "#$0123456789?L_abdeghnopqu",
    611: "FTZ",
    667: "&ABEKPSVXY",
    722: "CDHNRUw",
    778: "GOQ",
    833: "Mm",
}
_WIDTH = {letter: width for width, letters in _WIDTHS.items() for letter in letters}


class Chip(NamedTuple):
    """A client."""

    qube: object
    x: float
    y: float
    width: float


class Panel(NamedTuple):
    """Clients of one netvm."""

    chips: tuple
    x: float
    y: float
    width: float
    height: float


class Box(NamedTuple):
    """A node: a qube that carries others' packets."""

    node: object
    x: float
    y: float
    width: float


class Edge(NamedTuple):
    """From the right side of one part to the left side of the next; flows: see ``tree``.

    start, end: the middle of its flows.
    """

    flows: tuple
    start: tuple
    end: tuple


class _Band(NamedTuple):
    """What is behind a node: how many qubes, the middle of where they end, what they send."""

    count: int
    middle: float
    flows: tuple


class Drawing(NamedTuple):
    """All parts; width and height of the whole."""

    boxes: tuple
    panels: tuple
    edges: tuple
    width: float
    height: float


def text_width(text, size=TEXT, bold=False):
    """How wide *text* is at most, in pixels."""
    return sum(_WIDTH.get(letter, 900) for letter in text) / 1000 * size * (1.2 if bold else 1.1)


class Words(NamedTuple):
    """Functions that give the small words.  under: of a node's qube, the line in its box.
    head: of a panel's qubes, its title.  tail: of a client, what follows its name."""

    under: Callable
    head: Callable
    tail: Callable


def lay(forest, words):
    """The :class:`Drawing` of a ``tree.Forest`` with :class:`Words`."""
    parts, bottom = _Parts(words), 0
    ends = []
    for node in (*forest.uplinks, *forest.cut):
        height, middle = parts.put(node, 0, bottom)
        if node in forest.uplinks:
            ends.append((node.flows, middle))
        bottom += height + BETWEEN
    return parts.finish(ends, max(bottom - BETWEEN, 0))


def chips_in_rows(qubes, x, y, width, tail):
    """Chips beside each other, as many in a row as fit: ``(chips, height)``; tail: see Words."""
    chips, left, top = [], x, y
    for qube in qubes:
        wide = chip_width(qube, tail(qube))
        if left > x and left + wide > x + width:
            left, top = x, top + CHIP + CHIP_GAP
        chips.append(Chip(qube, left, top, wide))
        left += wide + CHIP_GAP
    return tuple(chips), (top - y + CHIP if chips else 0)


def chip_width(qube, tail):
    """Of a client's chip."""
    return text_width(qube.name, bold=qube.running) + (text_width(tail, SMALL) + 30 if tail else 24)


def _alike(leaves):
    """Those in clear by choice, or by a bypass, are no others' company."""
    why = sorted({qube.clear() for qube in leaves})
    return [[qube for qube in leaves if qube.clear() == each] for each in why]


def _ports(counts):
    """Where edges of so many flows each end, above and below a node's middle."""
    apart = min(APART, (BOX - 8) / max(sum(counts), 1))
    found, before = [], -sum(counts) / 2
    for count in counts:
        found.append((before + count / 2) * apart)
        before += count
    return found


class _Parts:
    """Parts as they are put, with x growing to the left until the end."""

    def __init__(self, words):
        self.words = words
        self.boxes, self.panels, self.edges = [], [], []

    def put(self, node, right, top):
        """Puts *node* and all behind it; right: the x of its right side.  Its height and middle."""
        name, under = node.qube.name, self.words.under(node.qube)
        left = right + 30 + max(text_width(name, bold=True), text_width(under, SMALL))
        bands, bottom = [], top
        for each in node.nodes:
            height, middle = self.put(each, left + ACROSS, bottom)
            bands.append(_Band(each.count + 1, middle, each.flows))
            bottom += height + BETWEEN
        for leaves in _alike(node.leaves):
            height = self._panel(leaves, left + ACROSS, bottom)
            bands.append(_Band(len(leaves), bottom + height / 2, flows_of(leaves)))
            bottom += height + BETWEEN
        height = max(bottom - BETWEEN - top, BOX)
        ports = _ports([len(band.flows) for band in bands])
        middle = top + height / 2
        if bands:  # the way of most qubes is straight
            main = max(range(len(bands)), key=lambda place: bands[place].count)
            middle = bands[main].middle - ports[main]
        self.boxes.append(Box(node, left, middle - BOX / 2, left - right))
        for band, port in zip(bands, ports, strict=True):
            start, end = (left + ACROSS, band.middle), (left, middle + port)
            self.edges.append(Edge(band.flows, start, end))
        return height, middle

    def _panel(self, leaves, right, top):
        columns = math.ceil(len(leaves) / ROWS)
        rows = math.ceil(len(leaves) / columns)
        title = text_width(self.words.head(leaves), SMALL, bold=True)
        chips, x = [], PANEL_PAD
        for first in range(0, len(leaves), rows):
            column = leaves[first : first + rows]
            wide = max(chip_width(qube, self.words.tail(qube)) for qube in column)
            if columns == 1:
                wide = max(wide, title)
            for row, qube in enumerate(column):
                y = top + PANEL_HEAD + row * (CHIP + CHIP_GAP)
                chips.append(Chip(qube, x, y, wide))
            x += wide + CHIP_GAP
        width = max(x - CHIP_GAP, title + PANEL_PAD) + PANEL_PAD
        height = PANEL_HEAD + rows * (CHIP + CHIP_GAP) - CHIP_GAP + PANEL_PAD
        self.panels.append(Panel(tuple(chips), right + width, top, width, height))
        return height

    def finish(self, ends, height):
        """The same with x growing to the right, and edges to the Internet."""
        widest = max([part.x for part in (*self.boxes, *self.panels)], default=0)
        boxes = [box._replace(x=widest - box.x) for box in self.boxes]
        panels = []
        for panel in self.panels:
            x = widest - panel.x
            chips = tuple(chip._replace(x=x + chip.x) for chip in panel.chips)
            panels.append(panel._replace(x=x, chips=chips))
        edges = [
            Edge(flows, (widest - start[0], start[1]), (widest - end[0], end[1]))
            for flows, start, end in self.edges
        ]
        edges += [Edge(flows, (widest, at), (widest + ACROSS, at)) for flows, at in ends]
        return Drawing(tuple(boxes), tuple(panels), tuple(edges), widest + ACROSS, height)
