# SPDX-License-Identifier: GPL-2.0-or-later
"""The one exception for what a user can put right."""

from pathlib import Path


class UserError(Exception):
    """Bad input: exit code 2, and this one message instead of a traceback.

    what: what is wrong, without a full stop.  fix: what to do, a sentence.
    file, line (from 1), key: where, as far as known.
    """

    def __init__(self, what, fix, file=None, line=None, key=None):
        self.what, self.fix, self.file, self.line, self.key = what, fix, file, line, key
        place = f"{file}:{line}" if file and line else file
        super().__init__(": ".join(str(part) for part in (place, key, f"{what}. {fix}") if part))

    @classmethod
    def of_text(cls, text):
        """An error whose whole message is *text*: several problems, one on each line."""
        error = cls("", "")
        error.args = (text,)
        return error


def read_bytes(path):
    """The bytes of a file that a user named; raises :class:`UserError`."""
    try:
        return Path(path).read_bytes()
    except IsADirectoryError:
        raise UserError("this is a folder", "Name a file in it.", file=path) from None
    except FileNotFoundError:
        raise UserError("no such file", "Check the name.", file=path) from None
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise UserError(
            f"cannot be read: {reason}", "Check its mode and owner.", file=path
        ) from None


def read_text(path):
    """The text of a UTF-8 file (a byte order mark is dropped); raises :class:`UserError`."""
    raw = read_bytes(path)
    if b"\0" in raw:
        raise UserError(
            "this is a binary file, or UTF-16", "Name the text file, saved as UTF-8.", file=path
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            "not UTF-8 text",
            "Save the file as UTF-8.",
            file=path,
            line=raw.count(b"\n", 0, error.start) + 1,
        ) from None
