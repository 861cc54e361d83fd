# SPDX-License-Identifier: GPL-2.0-or-later
"""The syntax of OpenVPN's configuration files: words, quotes, comments, inline blocks.

As ``src/openvpn/options_parse.c`` of OpenVPN 2.7 reads them.
"""

import re
from typing import NamedTuple

from qubes_vpn_error import UserError
from qubes_vpn_profile_data import shown_key

_WORD = re.compile(
    r"""\s*(?: "((?:\\.|[^"\\])*)" | '([^']*)' | ((?:\\.|[^\s"'\\])(?:\\.|[^\s\\])*) )\s*""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(.)")


#: OpenVPN takes no more words on a line (MAX_PARMS in ``src/openvpn/options.h``).
_MOST_WORDS = 16


class Body(tuple):
    """The lines of a block, which may be secret: they show themselves to nobody."""

    __slots__ = ()

    def __repr__(self):
        return "(not shown)"


class Option(NamedTuple):
    """One option.  line: from 1.  inside: the options of a <connection> block, None otherwise.

    body: the lines of a block such as <ca>, None otherwise.  optional: after ``setenv opt``, where
    OpenVPN passes over what it does not know.
    """

    line: int
    name: str
    words: tuple
    body: Body | None = None
    inside: tuple | None = None
    optional: bool = False


def options(lines, path, first=1):
    """The options of *lines*, the first of which is line *first* of the file *path*."""
    found, numbered = [], iter(enumerate(lines, first))
    for number, line in numbered:
        text = line.strip()
        if text.startswith("-----"):
            raise UserError(
                "a certificate or key stands outside a block",
                "It belongs between <ca> and </ca> or the like; download the profile again.",
                file=path,
                line=number,
            )
        if text.startswith("</"):
            raise UserError(
                "a block ends here that never began",
                "Download the profile again.",
                file=path,
                line=number,
                key=f"</{_tag(text[2:])}>",
            )
        words = _words(text, path, number)
        if not words:
            continue
        name = words[0]
        if len(words) == 1 and name.startswith("<") and name.endswith(">"):
            tag = name[1:-1]
            body = _block(numbered, tag, path, number)
            inside = tuple(options(body, path, number + 1)) if tag == "connection" else None
            found.append(Option(number, tag, (), Body(body), inside))
            continue
        optional = words[:2] == ["setenv", "opt"] and len(words) > 2
        name, *words = words[2:] if optional else words
        name = name[2:] if name.startswith("--") and len(name) > 2 else name
        found.append(Option(number, name, tuple(words), optional=optional))
    return found


def _block(numbered, tag, path, start):
    """The lines up to the end of the block *tag*."""
    body, end = [], f"</{tag}>"
    for number, line in numbered:
        text = line.strip()
        if text.startswith(end):
            if tag != "connection" and not any(kept.strip() for kept in body):
                raise UserError(
                    "the block is empty",
                    "Download the profile again.",
                    file=path,
                    line=start,
                    key=f"<{_tag(tag)}>",
                )
            return body
        if text == "<connection>" or (text.startswith("<") and tag != "connection"):
            raise UserError(
                f"the block is cut off: another one begins or ends on line {number}",
                f"It must end with a line {end}; download the profile again.",
                file=path,
                line=start,
                key=f"<{_tag(tag)}>",
            )
        body.append(line)
    raise UserError(
        "the block is cut off: the file ends before it does",
        f"It must end with a line {end}; download the profile again.",
        file=path,
        line=start,
        key=f"<{_tag(tag)}>",
    )


def _tag(text):
    return shown_key(text.partition(">")[0])


def _words(text, path, number):
    """The words of one line: quotes, backslashes, and comments that begin a word."""
    words, at = [], 0
    while at < len(text) and not (rest := text[at:].lstrip()).startswith(("#", ";")):
        word = _WORD.match(text, at)
        if word is None:
            quoted = rest[:1] in ("'", '"')
            raise UserError(
                "a quotation mark is missing" if quoted else "a backslash ends the line",
                "Close the quotation." if quoted else "Write folders with '/'.",
                file=path,
                line=number,
            )
        double, single, plain = word.groups()
        words.append(_ESCAPE.sub(r"\1", double or plain or "") if single is None else single)
        at = word.end()
        if len(words) > _MOST_WORDS:
            raise UserError(
                f"more than {_MOST_WORDS} words on a line",
                "Download the profile again.",
                file=path,
                line=number,
            )
    return words
