# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's network as SVG: one picture of it, or the machine before and after a plan."""

import textwrap
from html import escape

import qubes_vpn_observers
from qubes_vpn_formula.picture import layout, tree
from qubes_vpn_formula.picture.layout import APART, BOX, CHIP, SMALL, TEXT, text_width
from qubes_vpn_network import CLEAR, CLOSED, OFFLINE, SHELTERED, TOR, TUNNEL

#: Qubes' labels as its manager shows them (qubes-core-admin, qubes/app.py).
_LABELS = {
    "red": "#cc0000",
    "orange": "#f57900",
    "yellow": "#edd400",
    "green": "#73d216",
    "gray": "#555555",
    "blue": "#3465a4",
    "purple": "#75507b",
    "black": "#000000",
}
_INK, _PALE, _LINE = "#1c1f24", "#6b7280", "#c8cdd4"
_GREEN, _RED, _VIOLET, _BLUE = "#1f8a4c", "#d61f1f", "#7a3fb0", "#1668dc"
#: By how clients get out: a panel's ground and its words' colour.
_PANELS = {
    SHELTERED: ("#f0f8f3", _GREEN),
    CLEAR: ("#fdeaea", _RED),
    CLOSED: ("#f3f4f6", _PALE),
    OFFLINE: ("#f3f4f6", _PALE),
}
#: By flow: colour and width, and of a tube what is inside.
_STROKES = {
    TUNNEL: (_GREEN, 10, "#d3f0de"),
    TOR: (_VIOLET, 10, "#eadcf6"),
    tree.INSIDE: (_GREEN, 2.5, None),
    CLEAR: (_RED, 4, None),
    CLOSED: (_PALE, 2, None),
    tree.IDLE: (_LINE, 2, None),
}
#: Of a tube with another inside: that one's colour.
_CORES = {}
for (outer, inner), flow in tree.NESTED.items():
    _STROKES[flow], _CORES[flow] = _STROKES[outer], _STROKES[inner][0]
_WEIGHT = ("normal", "bold")
_MARGIN = 28
_INTERNET = 92
_LINE_HEIGHT = 20
_LEAST = 760  # width: what the words need
_NOTE = 12  # size of a note's letters
_LEGEND = (
    (TUNNEL, "tunnel"),
    (TOR, "Tor"),
    *((flow, flow) for flow in tree.NESTED.values()),
    (tree.INSIDE, "on its way into one"),
    (CLEAR, "in clear"),
    (CLOSED, "leads nowhere"),
)


def draw(views):
    """The SVG file's text, of one :class:`View` or more (see ``picture``), each below the last."""
    drawn, top, width = [], _MARGIN, _LEAST
    for view in views:
        body, wide, height = _view(view, top)
        drawn.append(body)
        top += height + _MARGIN
        width = max(width, wide)
    flows = {flow for view in views for flow in _all_flows(tree.grow(view.qubes))}
    legend = _legend(flows, any(view.was for view in views), top)
    width, height = round(width + 2 * _MARGIN), round(top + _LINE_HEIGHT + _MARGIN / 2)
    told = "; ".join(f"{view.title}: {_counts(view.qubes)}" for view in views)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(told)}" '
        'font-family="Liberation Sans, Arial, Helvetica, DejaVu Sans, sans-serif">\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n'
        f"{''.join(drawn)}{legend}</svg>\n"
    )


def _counts(qubes):
    return ", ".join(text for text, _way in tree.summary(qubes))


def _all_flows(forest):
    todo, found = [*forest.uplinks, *forest.cut], set()
    while todo:
        node = todo.pop()
        found |= {*node.flows, *tree.flows_of(node.leaves)}
        todo += node.nodes
    return found


def _view(view, top):
    """One machine at *top*: its parts' text, width and height."""
    forest = tree.grow(view.qubes)
    drawing = layout.lay(forest, _words(view))
    lines = [_text(_MARGIN, top + 16, view.title, 18, bold=True)]
    lines.append(_counted(_MARGIN, top + 40, tree.summary(view.qubes)))
    base = top + 62
    lines.append(f'<g transform="translate({_MARGIN} {base})">\n')
    lines += [_edge(edge) for edge in drawing.edges]
    lines += [_panel(panel, view) for panel in drawing.panels]
    lines += [_box(box, view) for box in drawing.boxes]
    lines += _internet(drawing, len(forest.uplinks))
    lines.append("</g>\n")
    width = drawing.width + _INTERNET
    bottom = base + drawing.height + 20
    if forest.offline:
        text, height = _offline(forest.offline, view, max(width, _LEAST), bottom)
        lines.append(text)
        bottom += height + 12
    tables = [_columns(way) for way in view.ways]
    width = max([width, *(wide for _places, wide in tables)])
    for note, way in view.notes:
        text, height = _lines(note, width, bottom, _PANELS[way][1])
        lines.append(text)
        bottom += height
    for way, (places, _wide) in zip(view.ways, tables, strict=True):
        text, height = _observers(way, places, width, bottom + 12)
        lines.append(text)
        bottom += 12 + height
    return "".join(lines), width, bottom - top


def _lines(words, width, top, colour, bold=False):
    """A note in lines as wide as the picture, below *top*: their text, and their height."""
    letters = int(max(width, _LEAST) / _NOTE * 1.8)  # half as wide as high, and less
    lines = textwrap.wrap(words, letters, subsequent_indent="\u2003")
    drawn = [
        _text(_MARGIN, top + place * _LINE_HEIGHT - 6, line, _NOTE, colour, bold)
        for place, line in enumerate(lines, 1)
    ]
    return "".join(drawn), len(lines) * _LINE_HEIGHT


def _columns(way):
    """Where the facts' columns are in the table of *way*, and how wide it is."""
    x, places = _MARGIN + 8 + max(text_width(each.who(), _NOTE) for each in way.observers), {}
    for fact in qubes_vpn_observers.FACTS:
        wide = text_width(fact, SMALL) + 20
        places[fact] = x + wide / 2
        x += wide
    return places, x - _MARGIN


def _observers(way, places, width, top):
    """Who sees what on a way, as a table at *top*: its text, and its height."""
    text, height = _lines(qubes_vpn_observers.title(way), width, top, _INK, bold=True)
    lines, bottom = [text], top + height + _LINE_HEIGHT
    lines += [
        _text(place, bottom - 6, fact, SMALL, _PALE, anchor="middle")
        for fact, place in places.items()
    ]
    for each in way.observers:
        bottom += _LINE_HEIGHT
        lines.append(_text(_MARGIN, bottom - 6, each.who(), _NOTE))
        colour = _RED if each.links() and each is not way.observers[-1] else _INK
        lines += [
            f'<circle cx="{place:g}" cy="{bottom - 10:g}" r="4" fill="{colour}"/>\n'
            for fact, place in places.items()
            if fact in each.sees
        ]
    for remark in qubes_vpn_observers.remarks(way):
        text, height = _lines(remark, width, bottom, _PALE)
        lines.append(text)
        bottom += height
    return "".join(lines), bottom - top


def _words(view):
    """The ``layout.Words`` of a view."""

    def tail(qube):
        return view.was.get(qube.name, "")

    def under(qube):
        return ", ".join(filter(None, (_kind(qube), tail(qube))))

    return layout.Words(under, _head, tail)


def _kind(qube):
    """What a node is."""
    if qube.role != TUNNEL:
        return "Tor" if qube.role == TOR else qube.role
    return "tunnel, endpoints only" if qube.limited else "tunnel, no firewall list"


def _head(qubes):
    """The title of a panel: how its qubes get out."""
    why = {qube.clear() for qube in qubes if qube.way == CLEAR}
    words = {
        SHELTERED: f"through {qubes[0].exit}",
        CLEAR: (why.pop() if len(why) == 1 else "in clear").replace("in clear", "IN CLEAR"),
        CLOSED: "cut off",
    }[qubes[0].way]
    return f"{len(qubes)} qubes, {words}" if len(qubes) > 3 else words


def _edge(edge):
    (x1, y1), (x2, y2) = edge.start, edge.end
    middle = (x1 + x2) / 2
    found = []
    for place, flow in enumerate(edge.flows):
        off = (place - (len(edge.flows) - 1) / 2) * APART
        a, b = y1 + off, y2 + off
        path = f"M{x1:g} {a:g}C{middle:g} {a:g} {middle:g} {b:g} {x2:g} {b:g}"
        colour, width, inside = _STROKES[flow]
        dashes = ' stroke-dasharray="5 5"' if flow == CLOSED else ""
        stroke = f'stroke="{colour}" stroke-width="{width}"'
        found.append(f'<path d="{path}" fill="none" {stroke}{dashes}/>\n')
        if inside:
            found.append(f'<path d="{path}" fill="none" stroke="{inside}" stroke-width="5"/>\n')
        if flow in _CORES:
            core = f'stroke="{_CORES[flow]}" stroke-width="3"'
            found.append(f'<path d="{path}" fill="none" {core}/>\n')
    return "".join(found)


def _panel(panel, view):
    qubes = [chip.qube for chip in panel.chips]
    way = qubes[0].way
    ground, colour = _PANELS[way]
    border = f' stroke="{_RED}" stroke-width="1.5"' if way == CLEAR else ""
    return (
        f'<rect x="{panel.x:g}" y="{panel.y:g}" width="{panel.width:g}" height="{panel.height:g}" '
        f'rx="8" fill="{ground}"{border}/>\n'
        + _text(panel.x + 10, panel.y + 15, _head(qubes), SMALL, colour, bold=True)
        + "".join(_chip(chip, view) for chip in panel.chips)
    )


def _chip(chip, view):
    qube, ink = chip.qube, _INK if chip.qube.running else _PALE
    text = _frame(chip.x, chip.y, chip.width, CHIP, qube, view.was)
    text += _text(chip.x + 14, chip.y + 18, qube.name, TEXT, ink, bold=qube.running)
    if tail := _words(view).tail(qube):
        right = chip.x + chip.width - 8
        text += _text(right, chip.y + 17, tail, SMALL, _BLUE, anchor="end")
    return text


def _box(box, view):
    qube = box.node.qube
    open_list = qube.role == TUNNEL and not qube.limited
    return (
        _frame(box.x, box.y, box.width, BOX, qube, view.was)
        + _text(box.x + 16, box.y + 20, qube.name, TEXT, _INK if qube.running else _PALE, bold=True)
        + _text(
            box.x + 16, box.y + 36, _words(view).under(qube), SMALL, _RED if open_list else _PALE
        )
    )


def _frame(x, y, width, height, qube, marked):
    """A white field with a bar in the label's colour; blue around it when a plan changes it."""
    label = _LABELS.get(qube.label, _LINE)
    edge, thick = (_BLUE, 2.5) if qube.name in marked else (label, 1.2)
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height}" rx="5" fill="#ffffff" '
        f'stroke="{edge}" stroke-width="{thick}"/>\n'
        f'<path d="M{x + 5:g} {y:g}h3v{height}h-3a5 5 0 0 1 -5 -5v-{height - 10}a5 5 0 0 1 5 -5z" '
        f'fill="{label}"/>\n'
    )


def _internet(drawing, uplinks):
    if not uplinks:
        return []
    ends = [edge.end for edge in drawing.edges if edge.end[0] == drawing.width]
    low, high = min(y for _x, y in ends), max(y for _x, y in ends)
    x, y, height = drawing.width, low - 24, high - low + 48
    return [
        f'<rect x="{x:g}" y="{y:g}" width="{_INTERNET - 2}" height="{height:g}" rx="22" '
        f'fill="#e8eef7" stroke="#b6c2d4"/>\n',
        _text(x + _INTERNET / 2, (low + high) / 2 + 5, "Internet", TEXT, anchor="middle"),
    ]


def _offline(qubes, view, width, top):
    x, words = _MARGIN + 84, _words(view)
    chips, height = layout.chips_in_rows(qubes, x, top + 8, width - 96, words.tail)
    ground, colour = _PANELS[OFFLINE]
    text = (
        f'<rect x="{_MARGIN}" y="{top:g}" width="{width:g}" height="{height + 16:g}" rx="8" '
        f'fill="{ground}" stroke="{_LINE}" stroke-dasharray="4 4"/>\n'
        + _text(_MARGIN + 12, top + 26, "OFFLINE", SMALL, colour, bold=True)
        + "".join(_chip(chip, view) for chip in chips)
    )
    return text, height + 16


def _legend(flows, marks, top):
    x, found = _MARGIN, []
    for flow, words in _LEGEND:
        if flow in flows:
            edge = layout.Edge((flow,), (x, top + 8), (x + 30, top + 8))
            found.append(_edge(edge) + _text(x + 36, top + 12, words, SMALL, _PALE))
            x += 36 + text_width(words, SMALL) + 18
    found.append(_text(x, top + 12, "running", SMALL, _INK, bold=True))
    x += text_width("running", SMALL) + 8
    found.append(_text(x, top + 12, "halted", SMALL, _PALE))
    x += text_width("halted", SMALL) + 18
    if marks:
        found.append(
            f'<rect x="{x:g}" y="{top + 1:g}" width="20" height="14" rx="4" fill="#ffffff" '
            f'stroke="{_BLUE}" stroke-width="2.5"/>\n'
            + _text(x + 26, top + 12, "moved or made by the run", SMALL, _PALE)
        )
    return "".join(found)


def _counted(x, y, told):
    """Texts in one line, each in the colour of its way."""
    spans = ", ".join(
        f'<tspan fill="{_PANELS[way][1]}" font-weight="{_WEIGHT[way == CLEAR]}">'
        f"{escape(text)}</tspan>"
        for text, way in told
    )
    return f'<text x="{x:g}" y="{y:g}" font-size="{TEXT}" fill="{_PALE}">{spans}</text>\n'


def _text(x, y, text, size, colour=_INK, bold=False, anchor=None):
    more = ' font-weight="bold"' if bold else ""
    more += f' text-anchor="{anchor}"' if anchor else ""
    place = f'x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"'
    return f"<text {place}{more}>{escape(text)}</text>\n"
