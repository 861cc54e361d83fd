# SPDX-License-Identifier: GPL-2.0-or-later
"""A pillar file with its line numbers.

One pass of the C parser gives the nodes; the data is built from them directly, which takes less
time than PyYAML's constructor and finds keys that stand twice.  Lines are looked up in the nodes
only for what has a problem.
"""

import difflib
import re
from functools import cached_property
from typing import NamedTuple

import yaml

import qubes_vpn_model
from qubes_vpn_formula.errors import UserError, read_text
from qubes_vpn_problem import Problem, show

#: Brackets in brackets; a pillar needs six.  Without a limit PyYAML's C code overruns the stack.
_DEEPEST = 50
#: What Salt would evaluate before it reads the YAML.
_JINJA = ("{{", "{%", "{#")
_BARE_IPV6 = re.compile(r"(^|[\s,\[-])\[[0-9A-Fa-f:]*:[0-9A-Fa-f:]*\]")
_TAG = "tag:yaml.org,2002:"
_STR, _MERGE = f"{_TAG}str", f"{_TAG}merge"
_CONSTRUCTOR = yaml.constructor.SafeConstructor()
_SCALARS = {
    f"{_TAG}{name}": getattr(_CONSTRUCTOR, f"construct_yaml_{name}")
    for name in ("null", "bool", "int", "float", "timestamp", "binary")
}


class Located(NamedTuple):
    """A :class:`qubes_vpn_problem.Problem` and its line, from 1."""

    line: int
    problem: Problem


class PillarFile:
    """A pillar file that could be read.

    path: as the user named it.  text: all of it.  data: all of it, as Salt would have it.
    document: the value under ``qubes_vpn``.
    """

    def __init__(self, path, text):
        self.path, self.text = path, text
        self.root = _compose(path, text)
        builder = _Builder(path)
        self.data = builder.build(self.root)
        self.has_duplicates = builder.has_duplicates
        if not isinstance(self.data, dict):
            raise UserError(
                "the file is not a mapping",
                "Write it as 'qubes_vpn:' and its keys below.",
                file=path,
                line=self.root.start_mark.line + 1,
            )
        if "qubes_vpn" not in self.data:
            near = difflib.get_close_matches("qubes_vpn", map(str, self.data), n=1)
            raise UserError(
                "there is no key 'qubes_vpn' at the top",
                f"Rename '{near[0]}'." if near else "Start from pillar.example.",
                file=path,
                line=self.line(near) if near else None,
            )
        self.document = self.data["qubes_vpn"]

    @cached_property
    def _read(self):
        return qubes_vpn_model.read(self.document)

    @property
    def model(self):
        """The :class:`qubes_vpn_model.Model`, to be used only when there are no problems."""
        return self._read[0]

    def problems(self):
        """Every problem of the file as :class:`Located`, by line."""
        found = [Located(self.line(problem.path), problem) for problem in self._read[1]]
        return sorted([*found, *self.duplicates()], key=lambda located: located.line)

    def duplicates(self):
        """A :class:`Located` problem for every key that stands twice in one mapping."""
        return list(_duplicates(self.root, (), set())) if self.has_duplicates else []

    def line(self, path):
        """The line (from 1) of the key *path*, or of the nearest key above it."""
        node, line = self.root, 1
        for key in path:
            at = child(node, key)
            if at is None:
                break
            where, node = at
            line = where.start_mark.line + 1
        return line


def read(path, most=None):
    """The :class:`PillarFile` at *path*; raises :class:`UserError` when it cannot be understood.

    most: bytes that it may have at most.
    """
    return PillarFile(path, read_text(path, most))


def _compose(path, text):
    """The YAML nodes of *text*, one document; raises :class:`UserError`."""
    if any(mark in text for mark in _JINJA):
        number, mark = next(
            (number, mark)
            for number, line in enumerate(text.split("\n"), 1)
            for mark in _JINJA
            if mark in line
        )
        raise UserError(
            f"Jinja ('{mark}'): Salt would evaluate it before anything can be checked",
            "Write the values themselves.",
            file=path,
            line=number,
        )
    try:
        refuse_depth(text, path)
        node = yaml.compose(text, yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(path, text, error) from None
    except yaml.reader.ReaderError as error:
        line = text.encode()[: error.position].count(b"\n") + 1
        raise UserError(
            "a control character", "Type the line again.", file=path, line=line
        ) from None
    if node is None:
        raise UserError("the file is empty", "Start from pillar.example.", file=path)
    return node


def refuse_depth(text, path=None):
    """Raises :class:`UserError` for YAML that is too deep to be given to PyYAML."""
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            line = event.start_mark.line + 1
            raise UserError(
                "nested too deeply", "Take brackets or indentation away.", file=path, line=line
            )


def _syntax_error(path, text, error):
    number = error.problem_mark.line + 1 if error.problem_mark else 1
    near = list(enumerate(text.split("\n"), 1))[max(0, number - 2) : number]
    what = f"not YAML: {error.problem}"
    fix = "Look at the indentation, colons and quotes here and on the line before."
    address = next((place for place, line in near if _BARE_IPV6.search(line)), None)
    if error.context == "expected a single document in the stream":
        what, fix = "a second document begins here ('---')", "Keep one document in the file."
    elif near and near[-1][1].lstrip(" ").startswith("\t"):
        what, fix = "not YAML: a tab stands in the indentation", "Indent with blanks."
    elif address:
        number = address
        what, fix = "not YAML: an IPv6 endpoint without quotes", 'Write "[ADDRESS]:PORT/PROTOCOL".'
    elif error.context == "while scanning an alias":
        what = "not YAML: a text that begins with '*' has to be in quotes"
        fix = "Of a host, list every name by itself: the Qubes firewall knows no wildcards."
    elif "alias" in (error.problem or ""):
        fix = "Define the anchor ('&name') above its use."
    return UserError(what, fix, file=path, line=number)


class _Builder:
    """Data from nodes.  has_duplicates: whether some mapping had a key twice."""

    def __init__(self, path):
        self.path = path
        self.has_duplicates = False
        self._built = {}  # anchors are built once; ... while that goes on

    def build(self, node):
        kind = node.__class__
        if kind is yaml.ScalarNode:
            return node.value if node.tag == _STR else self._scalar(node)
        known = self._built.get(id(node))
        if known is ...:
            raise UserError(
                "an anchor ('&...') is used inside itself",
                "Write the value itself.",
                file=self.path,
                line=node.start_mark.line + 1,
            )
        if known is not None:
            return known
        self._built[id(node)] = ...
        built = self._built[id(node)] = self._collection(node)
        return built

    def _collection(self, node):
        kind = node.__class__
        if kind is yaml.MappingNode and node.tag == f"{_TAG}map":
            return self._mapping(node)
        if kind is yaml.SequenceNode and node.tag == f"{_TAG}seq":
            return [self.build(item) for item in node.value]
        raise self._refused(node)

    def _mapping(self, node):
        built, merged = {}, []
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged.append(value_node)
                continue
            key = self.build(key_node)
            try:
                self.has_duplicates |= key in built
            except TypeError:
                raise UserError(
                    "a list or mapping cannot be a key",
                    "Write a name before the colon.",
                    file=self.path,
                    line=key_node.start_mark.line + 1,
                ) from None
            built[key] = self.build(value_node)
        for value_node in merged:
            several = isinstance(value_node, yaml.SequenceNode)
            for each in value_node.value if several else [value_node]:
                if not isinstance(each, yaml.MappingNode):
                    raise UserError(
                        "'<<' merges mappings only",
                        "Name the anchor of a mapping.",
                        file=self.path,
                        line=each.start_mark.line + 1,
                    )
                for key, value in self.build(each).items():
                    built.setdefault(key, value)
        return built

    def _scalar(self, node):
        read_scalar = _SCALARS.get(node.tag)
        if read_scalar is None:
            raise self._refused(node)
        try:
            return read_scalar(node)
        except (ValueError, yaml.constructor.ConstructorError):
            raise UserError(
                f"{show(node.value)} is not a {node.tag.removeprefix(_TAG)}",
                "Put it in quotes.",
                file=self.path,
                line=node.start_mark.line + 1,
            ) from None

    def _refused(self, node):
        return UserError(
            "a YAML tag ('!...') that a pillar cannot have",
            "Remove it.",
            file=self.path,
            line=node.start_mark.line + 1,
        )


def child(node, key):
    """(node whose line it is, value node) of *key* in *node*, or None."""
    if isinstance(node, yaml.SequenceNode):
        inside = isinstance(key, int) and 0 <= key < len(node.value)
        return (node.value[key], node.value[key]) if inside else None
    if not isinstance(node, yaml.MappingNode):
        return None
    for key_node, value_node in reversed(node.value):
        if _is_key(key_node, key):
            return key_node, value_node
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE:
            several = isinstance(value_node, yaml.SequenceNode)
            for each in value_node.value if several else [value_node]:
                found = child(each, key)
                if found:
                    return key_node, found[1]
    return None


def _is_key(node, key):
    if not isinstance(node, yaml.ScalarNode) or node.tag == _MERGE:
        return False
    return (node.value if node.tag == _STR else _SCALARS[node.tag](node)) == key


def _duplicates(node, path, seen):
    """A :class:`Located` problem for every key that stands twice, at its second line.

    *seen*: ids of nodes that are done, because aliases lead to the same one again.
    """
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for place, item in enumerate(node.value):
            yield from _duplicates(item, (*path, place), seen)
    if not isinstance(node, yaml.MappingNode):
        return
    lines = {}
    for key_node, value_node in node.value:
        if key_node.tag == _MERGE:
            continue
        key = _Builder("").build(key_node)
        line = key_node.start_mark.line + 1
        here = (*path, key)
        if key in lines:
            yield Located(
                line,
                Problem(
                    here,
                    f"two of one name: {show(key)} stands on line {lines[key]} already",
                    "Rename or remove one of them.",
                ),
            )
        lines[key] = line
        yield from _duplicates(value_node, here, seen)
