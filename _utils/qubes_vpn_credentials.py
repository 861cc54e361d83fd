# SPDX-License-Identifier: GPL-2.0-or-later
"""Files with secrets in the VPN qube's ``credentials/``: read strictly, or not at all (R33)."""

import errno
import os
import shlex
import stat
from contextlib import contextmanager

from qubes_vpn_error import UserError, too_large
from qubes_vpn_profile import MOST

#: The folder, in the VPN qube.
PLACE = "/rw/config/vpn/credentials"


class Folder:
    """An open ``credentials/``.

    *path* is one folder's, root's, and open to nobody else; so must each file in it be, and an
    ordinary file, no link.  What :meth:`read` returns is of the file that was checked.
    """

    def __init__(self, path, descriptor):
        self.path, self._descriptor = path, descriptor

    def has(self, name):
        """Whether there is anything of that *name*."""
        try:
            os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return False
        return True

    def read(self, name, asked_by=None):
        """The bytes of the file *name*, a bare name; raises :class:`UserError`.

        asked_by: what in a profile names it, as :class:`UserError` takes it: file, line, key.
        """
        path = self.path / name
        try:
            # Never waits for the other end of a pipe.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
        except OSError as error:
            raise _not_opened(error, path, asked_by) from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UserError("not an ordinary file", "Put the file itself there.", file=path)
            _refuse_open(status, path, "600")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(MOST + 1)
        finally:
            os.close(descriptor)
        if len(content) > MOST:
            raise too_large(path, MOST)
        return content


@contextmanager
def opened(path):
    """The :class:`Folder` *path*; raises :class:`UserError`."""
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags)
    except OSError as error:
        raise _not_opened(error, path, None) from None
    try:
        _refuse_open(os.fstat(descriptor), path, "700")
        yield Folder(path, descriptor)
    finally:
        os.close(descriptor)


def _refuse_open(status, path, mode):
    """A secret that others could read has to be taken for known to them."""
    if status.st_uid not in (0, os.geteuid()):
        raise UserError(
            "it is not root's", f"Type: sudo chown root:root {_quoted(path)}", file=path
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise UserError(
            f"others than root may open it (mode {stat.S_IMODE(status.st_mode):04o})",
            f"Type: sudo chmod {mode} {_quoted(path)}",
            file=path,
        )


def _not_opened(error, path, asked_by):
    if error.errno == errno.ENOENT:
        fix = f"Copy it to {path}, root's, mode 0600."
        return UserError(f"there is no {path}", fix, **(asked_by or {"file": path}))
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return UserError("a link, or no folder", "Put the files themselves there.", file=path)
    return UserError(f"cannot be opened: {error.strerror.lower()}", "Look at it.", file=path)


def _quoted(path):
    return f"'{path}'" if " " in str(path) else path


def bring(names):
    """The command lines with which a user puts files from qvm-copy into ``credentials/``.

    names: of the files.  They take whatever qube sent them, leave no copy behind, and may be typed
    again: they do nothing then.
    """
    files = " ".join(f"~/QubesIncoming/*/{shlex.quote(name)}" for name in names)
    return [
        f"sudo install -d -m700 {PLACE}",
        f'for file in {files}; do if [ -f "$file" ]; then '
        f'sudo install -m600 "$file" {PLACE}/ && rm "$file"; fi; done',
    ]
