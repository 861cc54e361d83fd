# SPDX-License-Identifier: GPL-2.0-or-later
"""Files written whole or not at all."""

import contextlib
import os
import tempfile
from pathlib import Path

from qubes_vpn_formula.errors import UserError


def write_new(path, content, force=False):
    """A file that only its owner may read; one that exists stays unless *force* is given.

    content: a text or bytes.
    """
    if not force and os.path.lexists(path):
        raise UserError(
            "the file exists already", "Choose another name, or add --force.", file=path
        )
    _write(path, content, None)


def rewrite(path, text):
    """New contents for a file that exists; its mode, its owner and a link to it stay."""
    real = os.path.realpath(path)
    _write(real, text, Path(real).stat(), shown=path)


def _write(path, content, like, shown=None):
    shown = shown or path
    try:
        handle, temporary = tempfile.mkstemp(dir=Path(path).parent, prefix=f".{Path(path).name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content if isinstance(content, bytes) else content.encode("utf-8"))
                stream.flush()
                if like is not None:
                    os.fchown(handle, like.st_uid, like.st_gid)
                    os.fchmod(handle, like.st_mode & 0o7777)
                os.fsync(handle)
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        reason = (error.strerror or "it failed").lower()
        raise UserError(
            f"cannot be written: {reason}", "Look at the folder, its mode and owner.", file=shown
        ) from None
