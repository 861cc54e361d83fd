# SPDX-License-Identifier: GPL-2.0-or-later
"""Plain text and docstrings as Markdown."""

import re
import textwrap

_CODE = re.compile(r"(`+)[^`]+\1")
_SPECIAL = re.compile(r"([\\*_<>\[\]#|~])")
_ROLE = re.compile(r":\w+:`~?([^`]+)`")
_NUMBERS = re.compile(r"\s*\(R\d\d[^)]*\)")


def plain(text):
    """*text*, in which only `code` means something, as Markdown; without requirements' numbers."""
    text, kept, at = _NUMBERS.sub("", text), [], 0
    for code in _CODE.finditer(text):
        kept += [_SPECIAL.sub(r"\\\1", text[at : code.start()]), code[0]]
        at = code.end()
    return "".join([*kept, _SPECIAL.sub(r"\\\1", text[at:])])


def paragraphs(lines):
    """Plain *lines* as Markdown; those that are set in are shown as they are."""
    blocks = []
    for line in lines:
        kind = "code" if line.startswith("  ") else "text"
        if not line.strip():
            blocks.append(("", []))
        elif blocks and blocks[-1][0] == kind:
            blocks[-1][1].append(line)
        else:
            blocks.append((kind, [line]))
    written = []
    for kind, found in blocks:
        if kind == "code":
            written += ["", fenced(_NUMBERS.sub("", textwrap.dedent("\n".join(found)))), ""]
        else:
            written += [plain(line) for line in found] or [""]
    return "\n".join(written).strip()


def fenced(text, language="text"):
    """A block of code."""
    return f"```{language}\n{text}\n```"


def docstring(text):
    """A docstring, cleaned, as Markdown: its marks for code, its examples, its arguments."""
    text = re.sub(r"(?<![\w*])\*([a-z_]+)\*(?![\w*])", r"`\1`", _ROLE.sub(r"`\1`", text))
    text, _, example = text.replace("``", "`").partition("\n\nCLI Example::\n\n")
    text = re.sub(r"^(Returns )", r"\n\1", text, flags=re.MULTILINE)
    listed = plain(re.sub(r"^([a-z_]+): ", r"\n- `\1`: ", text, flags=re.MULTILINE))
    shown = fenced(textwrap.dedent(example).strip(), "sh") if example else ""
    return f"{listed.strip()}\n\n{shown}".strip()
