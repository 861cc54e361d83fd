# SPDX-License-Identifier: GPL-2.0-or-later
"""One value of a pillar's text changed, and every other character left as it is.

The text is cut at the places that the YAML parser names, so that comments, quotes, order and
indentation stay the user's.  Whatever was cut, the result is parsed again: unless it holds exactly
the wanted data, :class:`UserError` says so and nothing is written.

For the command line, and for dom0, where PyYAML comes with Salt.
"""

import re

import yaml

from qubes_vpn_error import UserError
from qubes_vpn_problem import path_text, show

_STEP = re.compile(r'\[(\d{1,9})\]|(?:^|\.)(?:(["\'])(.*?)\2|([^."\'\[\]]+))')
#: A comment that `put_list` wrote beside an item of a relay list.
_BESIDE = re.compile(
    r"( # )([a-z0-9][a-z0-9.-]*(, [a-z0-9]+)?( and \d+ more)?"
    r"|in use, no longer chosen|of your own)\Z"
)
#: Much faster, where PyYAML was built with it.
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BY_HAND = "Edit the file by hand, and run 'qubes-vpn check' on it."


def keys(text):
    """The keys of a KEY.PATH such as ``tunnels.sys-vpn.endpoints[0]``; ``"a.b"`` quotes a key.

    ``qubes_vpn`` at its beginning may be left out.  Raises :class:`UserError`.
    """
    found, at = [], 0
    while at < len(text):
        step = _STEP.match(text, at)
        if step is None:
            raise UserError(
                f"not a key path: {text}",
                'Write tunnels.sys-vpn.endpoints[0]; a key with dots in quotes: allowlists."a.b".',
            )
        index, _, quoted, plain = step.groups()
        found.append(int(index) if index else plain if quoted is None else quoted)
        at = step.end()
    if not found:
        raise UserError("the key path is empty", "Name a key, such as tunnels.sys-vpn.memory.")
    return tuple(found) if found[0] == "qubes_vpn" else ("qubes_vpn", *found)


def put(text, path, value):
    """*text* with *value* at *path*; mappings on the way are made as needed."""
    return _Edit(text, path).put(value)


def append(text, path, value):
    """*text* with *value* as another item of the list at *path*, which is made if need be."""
    return _Edit(text, path).append(value)


def put_list(text, path, items):
    """*text* with the list of *items* at *path*: pairs of a text and a comment beside it.

    A line whose text stays keeps its comment, unless that is one of an item's, too; comments on
    lines of their own stay.
    """
    return _Edit(text, path).put_list(items)


def spell_out(text, path, value):
    """*text* with the mapping *value* where a word at *path* stands for it, a line for each key."""
    return _Edit(text, path).spell_out(value)


def delete(text, path):
    """*text* without the key or item at *path*."""
    return _Edit(text, path).delete()


def exchange(text, tunnel, profile):
    """*text* with *profile*, one of the *tunnel*'s ``profiles``, as its ``profile``.

    Which that was takes its place among the others.
    """
    path = ("qubes_vpn", "tunnels", tunnel)
    edit = _Edit(text, (*path, "profile"))
    try:
        there = edit.wanted["qubes_vpn"]["tunnels"][tunnel]
        former, place = there["profile"], there["profiles"].index(profile)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{show(profile)} is not among its 'profiles'", _BY_HAND, key=path_text(path)
        ) from None
    return put(edit.put(profile), (*path, "profiles", place), former)


class _Edit:
    def __init__(self, text, path):
        self.text, self.path = text, path
        self.newline = "\r\n" if "\r\n" in text else "\n"
        # The pure Python parser's marks count characters, whatever the text holds; it takes ten
        # times as long.
        loader = _FAST if text.isascii() else yaml.SafeLoader
        try:
            self.root = yaml.compose(text, loader)
        except yaml.YAMLError:
            self._no("the layout is too unusual for a safe edit", _BY_HAND)
        self.wanted = _unshared(_loaded(text))
        self.nodes = [self.root]  # from the root to the value, or as far as there is one
        self.places = []  # for each step the pair's or item's place in its parent
        for key in path:
            place = _place(self.nodes[-1], key)
            if place is None:
                break
            self.places.append(place)
            child = self.nodes[-1].value[place]
            self.nodes.append(child[1] if isinstance(child, tuple) else child)

    def put(self, value):
        parent = self._data(self.path[:-1], make=True)
        self._check_index(parent, self.path[-1])
        parent[self.path[-1]] = value
        if len(self.places) == len(self.path):
            return self._done(self._replaced(self.nodes[-1], value, self.nodes[-2]))
        return self._done(self._added(value))

    def append(self, value):
        parent = self._data(self.path[:-1], make=True)
        self._check_index(parent, self.path[-1])
        if isinstance(parent, dict) and parent.get(self.path[-1]) is None:
            return self.put([value])
        listed = parent[self.path[-1]]
        if not isinstance(listed, list):
            self._no("is not a list", "Leave --append out to replace the value.")
        node = self.nodes[-1]
        if len(self.places) < len(self.path):
            self._no("it comes from another place by '<<'", _BY_HAND)
        listed.append(value)
        if node.flow_style:
            return self._done(self._into_flow(node, _flow(value)))
        return self._done(self._line_after(node, f"- {_line(value)}", node.start_mark.column))

    def put_list(self, items):
        values = [value for value, _ in items]
        node, parent = self.nodes[-1], self.nodes[-2]
        if len(self.places) < len(self.path) or parent.flow_style:
            return self.put(values)
        self._data(self.path[:-1])[self.path[-1]] = values
        block = isinstance(node, yaml.SequenceNode) and node.value and not node.flow_style
        indent = node.start_mark.column if block else _start_column(parent, self.places[-1]) + 2
        begin, old = self._item_lines(node) if block else (node.start_mark.index, [])
        width = indent + len("- ") + max(len(_line(value)) for value in values) + 2
        lines, there = [], {}
        for value, own, line in old:
            lines += own  # comments of what goes stay where the next item is
            if value in values:
                there[value], lines = [*lines, line], []
        new = []
        for value, comment in items:
            if value in there:
                *own, line = there[value]
                new += [*own, _BESIDE.sub(rf"\g<1>{comment}", line)]
            else:
                new.append(f"{' ' * indent}- {_line(value)}".ljust(width) + f"# {comment}")
        text = self.newline.join([*new, *lines])
        before = self.text[:begin] if block else self.text[:begin].rstrip(" ") + self.newline
        end = self._line_end(self._end(node)) if block else self._end(node)
        return self._done(before + text + self.text[end:])

    def spell_out(self, value):
        node, parent = self.nodes[-1], self.nodes[-2]
        self._data(self.path[:-1])[self.path[-1]] = value
        start, end = node.start_mark.index, self._end(node)
        before = self.text[:start].rstrip(" ")
        if parent.flow_style or not before.endswith(":"):
            return self._done(self._replaced(node, value, parent))
        beside = self._line_end(end)  # a comment stays beside the key
        lines = _block(value, _start_column(parent, self.places[-1]) + 2, self.newline)
        text = before + self.text[end:beside] + self.newline + lines + self.text[beside:]
        return self._done(text)

    def _item_lines(self, node):
        """Where a block list's lines begin, and ``(value, comment lines above, line)`` of each."""
        begin = at = self.text.rfind("\n", 0, node.value[0].start_mark.index) + 1
        found = []
        for item in node.value:
            end = self._line_end(self._end(item))
            *own, line = self.text[at:end].split(self.newline)
            found.append((item.value, own, line))
            at = end + len(self.newline)
        return begin, found

    def delete(self):
        if len(self.places) < len(self.path) or len(self.path) < 2:
            self._no("there is no such key", "Look at the file for what is there.")
        del self._data(self.path[:-1])[self.path[-1]]
        parent, place = self.nodes[-2], self.places[-1]
        if len(parent.value) == 1:
            empty = {} if isinstance(parent, yaml.MappingNode) else []
            return self._done(self._replaced(parent, empty, self.nodes[-3]))
        starts = [_start(child) for child in parent.value]
        end = self._end(self.nodes[-1])
        if parent.flow_style:
            if place + 1 < len(starts):
                return self._done(self._cut(starts[place], starts[place + 1]))
            return self._done(self._cut(self._end(_value(parent.value[place - 1])), end))
        begin = self.text.rfind("\n", 0, starts[place]) + 1
        if not self.text[begin : starts[place]].strip(" -"):
            dash = "-" in self.text[begin : starts[place]]
            if not (dash and isinstance(parent, yaml.MappingNode)):
                return self._done(self._cut(begin, self._line_end(end) + len(self.newline)))
        return self._done(self._cut(starts[place], starts[min(place + 1, len(starts) - 1)]))

    def _data(self, path, make=False):
        """The wanted data at *path*; with *make*, mappings that are missing are added."""
        data = self.wanted
        for depth, key in enumerate(path):
            self._check_index(data, key)
            if isinstance(data, dict) and make and data.get(key) is None:
                data[key] = {}
            data = data[key]
            if not isinstance(data, (dict, list)) and depth + 1 < len(self.path):
                self._no(f"{path_text(path[: depth + 1])} holds a single value", "Delete it first.")
        return data

    def _check_index(self, data, key):
        if isinstance(data, list) and not (isinstance(key, int) and key < len(data)):
            self._no("there is no such item in the list", "Count from [0]; --append adds one.")
        if isinstance(data, dict) and isinstance(key, int):
            self._no("it is a mapping, not a list", 'Write a key that is a number in quotes: "1".')

    def _replaced(self, node, value, parent):
        """The text with *value* where *node*, a child of *parent*, is."""
        start, end = node.start_mark.index, self._end(node)
        line = _flow(value) if parent.flow_style else _line(value)
        block = isinstance(node, yaml.CollectionNode) and not node.flow_style
        if block and isinstance(value, (dict, list)) and value:
            line = _block(value, node.start_mark.column, self.newline).lstrip()
        elif block:  # ends up on the line of its key, unless a comment stands there
            before = self.text[:start].rstrip()
            if before.endswith((":", "-")):
                return f"{before} {line}{self.text[end:]}"
        elif start == end:  # an empty value, right after the colon
            line = f" {line}"
        return self.text[:start] + line + self.text[end:]

    def _added(self, value):
        """The text with a new key below the deepest node that is there."""
        node, missing = self.nodes[-1], self.path[len(self.places) :]
        for key in reversed(missing[1:]):
            value = {key: value}
        key = missing[0]
        if self._is_null(node) and len(self.nodes) > 1:
            holder = self.nodes[-2]
            if holder.flow_style or node.start_mark.index != node.end_mark.index:
                return self._replaced(node, {key: value}, holder)
            column = holder.value[self.places[-1]][0].start_mark.column + 2
            return self._lines_at(
                self._line_end(node.end_mark.index), _block({key: value}, column, self.newline)
            )
        if not isinstance(node, yaml.MappingNode):
            self._no("it cannot have keys", "Delete it first.")
        if node.flow_style:
            return self._into_flow(node, _flow({key: value})[1:-1])
        lines = _block({key: value}, node.start_mark.column, self.newline)
        return self._lines_at(self._line_end(self._end(node)), lines)

    def _into_flow(self, node, item):
        """The text with *item* as the last one of the flow collection *node*."""
        if not node.value:
            at = node.start_mark.index + 1
            return self.text[:at] + item + self.text[at:]
        at = self._end(_value(node.value[-1]))
        return f"{self.text[:at]}, {item}{self.text[at:]}"

    def _line_after(self, node, line, column):
        return self._lines_at(self._line_end(self._end(node)), " " * column + line)

    def _lines_at(self, at, lines):
        return self.text[:at] + self.newline + lines + self.text[at:]

    def _cut(self, start, end):
        return self.text[:start] + self.text[end:]

    def _line_end(self, at):
        """Where the line of position *at* ends, before its line break."""
        end = self.text.find("\n", at)
        end = len(self.text) if end < 0 else end
        return end - 1 if self.text[end - 1 : end] == "\r" else end

    def _end(self, node):
        """Where the value *node* ends: a block collection ends with its last value."""
        if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
            return self._end(_value(node.value[-1]))
        start, end = node.start_mark.index, node.end_mark.index
        return start + len(self.text[start:end].rstrip())

    @staticmethod
    def _is_null(node):
        return isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")

    def _done(self, text):
        """*text*, if it holds the wanted data."""
        try:
            right = _loaded(text) == self.wanted
        except (yaml.YAMLError, ValueError):
            right = False
        if not right:
            self._no("anchors or an unusual layout stand in the way of a safe edit", _BY_HAND)
        return text

    def _no(self, what, fix):
        raise UserError(what, fix, key=path_text(self.path))


def _loaded(text):
    loader = _FAST(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _place(node, key):
    """The place of *key* in *node*'s value, or None; of a key that stands twice, the last."""
    if isinstance(node, yaml.SequenceNode):
        return key if isinstance(key, int) and key < len(node.value) else None
    if not isinstance(node, yaml.MappingNode):
        return None
    places = [
        place
        for place, (key_node, _) in enumerate(node.value)
        if key_node.tag.endswith(":str") and key_node.value == key
    ]
    return places[-1] if places else None


def _value(child):
    return child[1] if isinstance(child, tuple) else child


def _start(child):
    return (child[0] if isinstance(child, tuple) else child).start_mark.index


def _start_column(mapping, place):
    return mapping.value[place][0].start_mark.column


def _flow(value):
    """*value* on one line, quoted so that it is right inside brackets."""
    text = yaml.safe_dump([value], default_flow_style=True, width=2**31, allow_unicode=True)
    return text.rstrip("\n")[1:-1]


def _line(value):
    """*value* on one line, quoted as little as is right outside brackets."""
    if isinstance(value, (dict, list)):
        return _flow(value)
    text = yaml.safe_dump(value, width=2**31, allow_unicode=True)
    text = text.removesuffix("\n").removesuffix("\n...")
    return _flow(value) if "\n" in text else text


def _block(value, column, newline):
    """*value* (a mapping or list that is not empty) in lines that begin at *column*."""
    text = yaml.safe_dump(
        value, default_flow_style=False, width=2**31, allow_unicode=True, sort_keys=False
    )
    return newline.join(" " * column + line for line in text.rstrip("\n").split("\n"))


def _unshared(data):
    """A copy of *data* in which nothing is the same object twice, as anchors make it."""
    if isinstance(data, dict):
        return {key: _unshared(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_unshared(value) for value in data]
    return data
