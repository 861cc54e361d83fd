# SPDX-License-Identifier: GPL-2.0-or-later
"""Edits of an installed killswitch.  One that changes nothing raises: it would prove nothing."""

import re
from collections.abc import Callable
from pathlib import Path

from qubes_vpn_formula.lab.mutants.paths import CLOSED, COMMAND, core

#: `{path in the qube: (text, mode)}`.
Files = dict[str, tuple[str, int]]
#: Changes files; raises NothingChanged when it would not.
Edit = Callable[[Files], None]

_SCRIPTS = Path(__file__).with_name("scripts")

TUNNEL = ' meta {}kind {{ "tun", "wireguard" }}'
MARK = "meta mark set meta mark | 0x10000000"


class NothingChanged(Exception):
    """What an edit should change is not there: the killswitch has changed, and the mutant must."""


def swap(path: str, old: str, new: str) -> Edit:
    """Replace *old* by *new* wherever it is in the file *path*."""

    def edit(files: Files) -> None:
        text, mode = files[path]
        if old not in text:
            raise NothingChanged(f"{path} has no {old!r}")
        files[path] = (text.replace(old, new), mode)

    return edit


def drop(*paths: str) -> Edit:
    """Take files away."""

    def edit(files: Files) -> None:
        for path in paths:
            if files.pop(path, None) is None:
                raise NothingChanged(f"{path} is not installed")

    return edit


def add(path: str, text: str, mode: int = 0o644) -> Edit:
    """Put a file there."""

    def edit(files: Files) -> None:
        files[path] = (text, mode)

    return edit


def first(chain: str, *rules: str) -> Edit:
    """Put rules at the head of a chain of `closed.nft`."""

    def edit(files: Files) -> None:
        text, mode = files[CLOSED]
        start, _ = _rules(text, chain)
        files[CLOSED] = (text[:start] + _lines(rules) + text[start:], mode)

    return edit


def after_mark(*rules: str) -> Edit:
    """Put rules into the output chain, where the packet has its mark: the gate lets it pass."""
    return swap(CLOSED, f"\t\t{MARK}\n", f"\t\t{MARK}\n{_lines(rules)}")


def without(chain: str, pattern: str) -> Edit:
    """Take the rules of a chain away that match a regular expression from their start."""

    def edit(files: Files) -> None:
        text, mode = files[CLOSED]
        start, end = _rules(text, chain)
        lines = text[start:end].splitlines(keepends=True)
        kept = [line for line in lines if not re.match(pattern, line.strip())]
        if kept == lines:
            raise NothingChanged(f"chain {chain} has no rule like {pattern!r}")
        files[CLOSED] = (text[:start] + "".join(kept) + text[end:], mode)

    return edit


def policy(chain: str) -> Edit:
    """Policy accept, and no last drop."""
    hooked = rf"(\tchain {chain} \{{\n\t\ttype filter hook [^;]*; policy )drop;"

    def edit(files: Files) -> None:
        text, mode = files[CLOSED]
        text, found = re.subn(hooked, r"\1accept;", text)
        if not found:
            raise NothingChanged(f"chain {chain} has no policy drop")
        files[CLOSED] = (text, mode)
        without(chain, "goto dropped")(files)

    return edit


def no_gate() -> Edit:
    """A gate that lets everything pass; it is there, so that the loader misses nothing."""
    return swap(core("ruleset"), "counter drop", "counter accept")


def only_first_line() -> list[Edit]:
    """Nothing behind the chains `forward` and `output`: neither `postrouting` nor the gate."""
    return [first("postrouting", "accept"), no_gate()]


def let(match: str) -> list[Edit]:
    """Accept what matches on all its way out, clients' and own, as if it went to an endpoint."""
    return [
        first("client_out", f"{match} {MARK} accept"),
        after_mark(f"{match} accept"),
        first("postrouting", f"{match} accept"),
    ]


def wrap(script: str) -> Edit:
    """Put a script of `scripts/` in the command's place; it calls the real one, `$0.real`."""

    def edit(files: Files) -> None:
        files[f"{COMMAND}.real"] = files[COMMAND]
        files[COMMAND] = ((_SCRIPTS / f"{script}.sh").read_text("utf-8"), 0o755)

    return edit


def _rules(text: str, chain: str) -> tuple[int, int]:
    """Where a chain's rules begin and end; a base chain's first block has only its hook."""
    found = list(re.finditer(rf"^\tchain {chain} \{{\n", text, re.MULTILINE))
    if not found:
        raise NothingChanged(f"{CLOSED} has no chain {chain}")
    start = found[-1].end()
    return start, text.index("\t}\n", start)


def _lines(rules: tuple[str, ...]) -> str:
    return "".join(f"\t\t{rule}\n" for rule in rules)
