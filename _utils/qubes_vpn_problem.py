# SPDX-License-Identifier: GPL-2.0-or-later
"""What is wrong with a pillar, in words, and without ever repeating a secret.

Used by every check, in dom0 and in the command line: one problem has one text.
Standard library only (dom0 has nothing else).
"""

import re
from typing import NamedTuple

#: A WireGuard key (32 bytes in base64), a Mullvad account number (16 digits), PEM text, or a line
#: such as "password=..." taken over from a profile.
_SECRET_VALUE = re.compile(
    r"[A-Za-z0-9+/]{43}=|(\d{4}[ -]?){3}\d{4}(?!\d)|-----BEGIN"
    r"|(?i:(key|psk|pass\w*|secret|token|account\w*)[\"']?\s*[:=])"
)
_SECRET_KEY = re.compile(
    r"private|presharedkey|psk|passw|passphrase|secret|token|account|login|^auth|^key$|^pass$"
)
_COMMENT = re.compile(r"comment=(.*)")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")
#: Characters of a text that are shown.
_LONGEST = 60


class Problem(NamedTuple):
    """One thing that is wrong.

    path: keys from the top, e.g. ``("qubes_vpn", "tunnels", "sys-vpn", "endpoints", 0)``.
    what: what is wrong there.  fix: what to do about it, a sentence of its own.
    """

    path: tuple
    what: str
    fix: str

    def text(self, where="pillar"):
        """The one line a user sees; *where* is ``pillar`` (dom0) or ``FILE:LINE``."""
        return f"{where}: {path_text(self.path)}: {self.what}. {self.fix}"


class PillarError(Exception):
    """The pillar cannot be used.  ``problems`` holds every reason, as :class:`Problem`."""

    def __init__(self, problems):
        self.problems = list(problems)
        super().__init__("\n".join(problem.text() for problem in self.problems))


def path_text(path):
    """``qubes_vpn.tunnels.sys-vpn.endpoints[0]``; a key with other characters is quoted."""
    text = ""
    for key in path:
        if looks_secret(key):
            text += ".(not shown)"
        elif isinstance(key, int) and not isinstance(key, bool):
            text += f"[{key}]"
        elif len(str(key)) <= _LONGEST and _PLAIN_KEY.match(str(key)):
            text += f".{key}"
        else:
            text += f".{show(str(key))}"
    return text.removeprefix(".")


def looks_secret(value):
    """Whether *value* must not be repeated on a screen or in a log."""
    return bool(_SECRET_VALUE.search(str(value)))


def without_secret(rule):
    """A firewall *rule*, as qubesadmin writes it, without a comment that looks like a secret."""
    comment = _COMMENT.search(rule)
    if comment and looks_secret(comment[1]):
        return f"{rule[: comment.start()]}comment=not shown"
    return rule


def names_a_secret(key):
    """Whether a key of this name would hold a secret (``PrivateKey``, ``account_number``...)."""
    return bool(_SECRET_KEY.search(re.sub(r"[^a-z]", "", str(key).lower())))


def show(value):
    """*value* as it may be shown in a message: quoted, shortened, secrets hidden."""
    if isinstance(value, dict | list | tuple | set):
        return "a mapping" if isinstance(value, dict) else "a list"  # it may hold anything
    if looks_secret(value):
        return "(not shown: it looks like a secret)"
    text = value if isinstance(value, str) else str(value)
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    if isinstance(value, bool):
        return text.lower()  # as YAML writes it
    return repr(text) if isinstance(value, str) or not text.isprintable() else text


def os_words(error):
    """An ``OSError``: its file, where it has one, and the reason."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def suggest(word, known):
    """The fix for an unknown *word*: the nearest of *known*, or all of them."""
    import difflib  # only needed once something is wrong

    known = sorted(known)
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Known here: {', '.join(known)}." if known else "There are none."
