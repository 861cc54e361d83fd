# SPDX-License-Identifier: GPL-2.0-or-later
"""The Mullvad app's command line: one command, and what it said.

Its daemon answers for it; without one it fails, or says nothing and does nothing.  Both are errors
here.  An account number never is among a command's words, which every process can read.
"""

import re
import subprocess
from pathlib import Path

PROGRAM = Path("/usr/bin/mullvad")
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
#: Seconds until a command is given up that only asks the daemon.
_PATIENCE = 20
#: The exit code of a command line that the program does not understand; it has done nothing then.
_NOT_UNDERSTOOD = 2
#: Eight digits or more, whatever stands between them that is no letter; a key.
_NUMBER = re.compile(r"\d(?:[\W_]*\d){7,}|[A-Za-z0-9+/]{42,}=?")


class Failed(Exception):
    """A command was not done; the text is for users, and has no secret.

    said: what the app itself said, to look for known sentences in it.  It may hold the account
    number in any form, and is never shown.
    """

    def __init__(self, text, said=""):
        super().__init__(text)
        self.said = said


class Unknown(Failed):
    """This version has no such command."""


def run(*words, typed=None, patience=_PATIENCE):
    """What `mullvad WORDS` printed; raises :class:`Failed`.

    typed: what it reads from its standard input.  patience: seconds.
    """
    code, said, error = _called(words, typed, patience)
    if code == _NOT_UNDERSTOOD:
        raise Unknown(f"`mullvad {' '.join(words)}`: this version knows no such command")
    if code:
        said = error or said
        raise Failed(f"`mullvad {' '.join(words)}`: {_reason(words, said)}", said)
    return said


def ask(*words, patience=_PATIENCE):
    """``{(section, label): value}`` of a command that prints settings, all in lower case.

    A section is a line without a value; what stands before the first one is of section ``""``.  A
    command that fails half way has told something too (`tunnel get` does, while nobody is logged
    in).  Raises :class:`Failed` when there is nothing.
    """
    code, said, error = _called(words, None, patience)
    if code == _NOT_UNDERSTOOD:
        raise Unknown(f"`mullvad {' '.join(words)}`: this version knows no such command")
    if not said.strip():
        reason = _reason(words, error) if error.strip() else "no answer"
        raise Failed(f"`mullvad {' '.join(words)}`: {reason}. {DAEMON}", error)
    found, section = {}, ""
    for line in said.lower().splitlines():
        label, colon, value = line.partition(":")
        if line.startswith(" ") or colon:
            found[section if line.startswith(" ") else "", label.strip()] = value.strip()
        else:
            section = line.strip()
            found[section, ""] = ""
    return found


#: What to look at when the app does not answer.
DAEMON = "Look at: journalctl -u mullvad-daemon"


def version():
    """Its version as it says it (``2026.4``), or ``of an unknown version``."""
    try:
        return without_secret(run("--version").split()[-1])
    except (Failed, IndexError):
        return "of an unknown version"


def without_secret(text):
    """*text* in one line, without what may be an account number or a key."""
    return _NUMBER.sub("(not shown)", " ".join(text.split()))


def _called(words, typed, patience):
    """Exit code, output and errors of `mullvad WORDS`."""
    try:
        done = subprocess.run(
            [PROGRAM, *words],
            input=typed or "",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience,
            check=False,
            env=_ENVIRONMENT,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"`mullvad {' '.join(words)}`: no answer in {patience} seconds") from None
    except OSError as error:
        raise Failed(f"{PROGRAM}: {error.strerror}") from None
    return done.returncode, done.stdout, done.stderr


def _reason(words, error):
    """The first and the last line of an error: what failed, and the cause at its bottom.

    What is said about the account is not told: it may name the number, in any form.
    """
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    if not lines:
        return "it failed and said nothing"
    if words[0] == "account":
        return "it failed, and why is not told here, as that may hold the account number"
    first = lines[0].removeprefix("Error: ")
    return without_secret(f"{first} ({lines[-1]})" if len(lines) > 1 else first)
