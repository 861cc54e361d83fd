# SPDX-License-Identifier: GPL-2.0-or-later
"""Every key of the pillar: its kind and default from the schema, its text from pillar.example."""

import re
from pathlib import Path

import yaml

import qubes_vpn_net
import qubes_vpn_schema
import qubes_vpn_types as types
from reference.words import paragraphs, plain

_EXAMPLE = Path(__file__).resolve().parents[2] / "pillar.example"
_KEY = re.compile(r"""( *)(- )?["']?([^\s"':#]+)["']?:( .+)?$""")
_COMMENT = re.compile(r"( *)# ?(.*)$")
_ADDRESSES = {
    qubes_vpn_net.endpoint: "as in `185.65.135.68:51820/udp`",
    qubes_vpn_net.destination: "as in `www.bank.example:443/tcp`, or `dns` or `icmp`",
}
#: What stands for a name, in a path.
NAME = "NAME"
#: What one service qube's text explains for all.
_SHARED = ("tunnels", NAME)


def write(_before):
    """The reference, a heading for each key."""
    explained, written = explanations(), []
    for path, kind, default in entries():
        text = explained.get(path) or explained.get((*_SHARED, path[-1]), [])
        level = "##" if len(path) == 1 else "###"
        facts = f"**{_capital(words(kind))}.** {_default(default)}"
        written += [f"{level} {'.'.join(path)}", facts, paragraphs(text)]
    return "\n\n".join(part for part in written if part)


def entries(kind=qubes_vpn_schema.PILLAR, path=()):
    """``(path, kind, default)`` of every key, NAME for what the user names, in their order."""
    while isinstance(kind, types.ListOf):
        kind = kind.kind
    if isinstance(kind, types.Keys):
        for key, (inner, default) in kind.fields.items():
            yield (*path, key), inner, default
            yield from entries(inner, (*path, key))
    elif _is_map(kind):
        yield from entries(kind.kind, (*path, NAME))


def explanations():
    """``{path: lines}``: what pillar.example says before each key."""
    known = {path for path, _, _ in entries()}
    above = {path[:size] for path in known for size in range(1, len(path))}
    found, pending, stack, last = {}, [], [], None
    text = _EXAMPLE.read_text(encoding="utf-8").partition("\nqubes_vpn:\n")[2]
    for line in text.splitlines():
        after = _after(line, stack, known, above)
        if after is None:
            comment = _COMMENT.match(_inner(line, stack))
            pending = [*pending, comment[2]] if comment else []
            last = last if comment else None
            continue
        stack, path = after, _path(after)
        if path in known and path not in found:
            # Values one below the other share the text above the first.
            shared = last and last[:-1] == path[:-1] and path not in above
            found[path] = pending or (found[last] if shared else [])
        pending, last = [], path if path in found else last
    return found


def _after(line, stack, known, above):
    """The stack of ``(indent, key, in a comment)`` after *line*; None if there is no key in it."""
    if key := _KEY.match(line):
        return _on(stack, key, commented=False)
    comment = _COMMENT.match(line)
    key = comment and _KEY.match(comment[1] + comment[2])
    after = _on(stack, key, commented=True) if key else None
    path = after and _path(after)
    # A word that a text explains looks like a key with a value, which no mapping has here.
    return after if path in known and not (path in above and key[4]) else None


def _on(stack, key, commented):
    indent = len(key[1]) + len(key[2] or "")
    return [*(entry for entry in stack if entry[0] < indent), (indent, key[3], commented)]


def _inner(line, stack):
    """*line* without its first mark, where it is about a key inside one that is a comment."""
    comment = _COMMENT.match(line)
    outer = next((indent for indent, _, commented in stack if commented), None)
    if comment and outer is not None and len(comment[1]) == outer and comment[2].startswith("  #"):
        return comment[1] + comment[2]
    return line


def _path(stack):
    """The path of a stack, NAME for what the user names; None for what the schema has not."""
    kind, path = qubes_vpn_schema.PILLAR, ()
    for _, key, _ in stack:
        while isinstance(kind, types.ListOf):
            kind = kind.kind
        if isinstance(kind, types.Keys) and key in kind.fields:
            kind, path = kind.fields[key][0], (*path, key)
        elif _is_map(kind):
            kind, path = kind.kind, (*path, NAME)
        else:
            return None
    return path


def _is_map(kind):
    """Whether its keys are names that the user chooses."""
    return hasattr(kind, "key") and hasattr(kind, "kind")


def words(kind):
    """What may be written there, in words."""
    told = {
        types.Choice: lambda: f"one of {', '.join(f'`{word}`' for word in kind.words)}",
        types.Name: lambda: " or ".join(["the name of a qube", *(f"`{w}`" for w in kind.words)]),
        types.Whole: lambda: f"a whole number of {kind.unit}, {kind.low} to {kind.high}",
        types.ListOf: lambda: f"a list, each item {words(kind.kind)}",
        types.Keys: lambda: "a mapping with the keys below",
        types.Address: lambda: _ADDRESSES[kind.parse],
    }
    for each in type(kind).__mro__:
        if each in told:
            return told[each]()
    if _is_map(kind):
        return f"a mapping, as in `{kind.example}`"
    if isinstance(kind, types.Pattern):
        return f"a text: {_small(kind.fix.rstrip('.'))}"
    said = type(kind).__doc__.partition("\n")[0].partition(";")[0]
    return _small(said.rstrip(".").replace("``", "`"))


def _default(default):
    if default is ...:
        return "Required."
    if default is None:
        return "May be left out."
    if default in ((), {}):
        return "Default: none."
    written = yaml.safe_dump(default, default_flow_style=True, width=1000).strip()
    return f"Default: `{written.removesuffix('...').strip()}`."


def _small(text):
    return plain(text[:1].lower() + text[1:]) if text[1:2].islower() or text[1:2] == " " else text


def _capital(text):
    return text[:1].upper() + text[1:]
