# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines on a screen: coloured on a terminal, plain text in a pipe, never wrapped."""

import sys


def say(text="", style=None):
    """One line of the command's result, on standard output."""
    _write(sys.stdout, text, style)


def tell(text="", style=None):
    """One line for the person at the keyboard, on standard error."""
    _write(sys.stderr, text, style)


def printable(text):
    """*text* without what would steer a terminal: a file's name may hold anything."""
    return "".join(mark if mark.isprintable() else "?" for mark in text)


def _write(stream, text, style):
    if style is None or not stream.isatty():
        print(text, file=stream)
        return
    from rich.console import Console  # not loaded in pipes and scripts: it costs 50 ms

    console = Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(text, style=style)
