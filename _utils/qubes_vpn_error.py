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
        # A file from another qube may be called anything; a terminal is not steered by it.
        shown = file and (str(file) if str(file).isprintable() else ascii(str(file)))
        place = f"{shown}:{line}" if file and line else shown
        super().__init__(": ".join(str(part) for part in (place, key, f"{what}. {fix}") if part))

    def __reduce__(self):
        """For another process: an exception's own way would leave out all but the message."""
        told = self.what, self.fix, self.file, self.line, self.key
        return UserError, told, {"args": self.args}

    @classmethod
    def of_text(cls, text):
        """An error whose whole message is *text*: several problems, one on each line."""
        error = cls("", "")
        error.args = (text,)
        return error


def read_bytes(path, most=None):
    """The bytes of a file that a user named, *most* at most; raises :class:`UserError`."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(-1 if most is None else most + 1)
    except IsADirectoryError:
        raise UserError("this is a folder", "Name a file in it.", file=path) from None
    except FileNotFoundError:
        raise UserError("no such file", "Check the name.", file=path) from None
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise UserError(
            f"cannot be read: {reason}", "Check its mode and owner.", file=path
        ) from None
    if most is not None and len(content) > most:
        raise too_large(path, most)
    return content


def too_large(path, most):
    """The error of a file of more than *most* bytes."""
    return UserError(
        f"larger than {most // 1024} KiB, which no such file is", "Get it again.", file=path
    )


def read_text(path, most=None):
    """The text of a UTF-8 file (a byte order mark is dropped); raises :class:`UserError`.

    most: bytes that it may have at most.
    """
    return text_of(read_bytes(path, most), path)


def text_of(raw, path):
    """The text of *raw*, the bytes of the file *path*, as of :func:`read_text`."""
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
