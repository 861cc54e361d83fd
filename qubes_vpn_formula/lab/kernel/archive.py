# SPDX-License-Identifier: GPL-2.0-or-later
"""Initial RAM disks: cpio archives of the format "newc" (Linux, initramfs buffer format).

Written here and not by cpio, so that device files and owners need no root.  Archives may follow
each other in one RAM disk; a later file replaces an earlier one.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO


class Archive:
    """An archive that is being written to `file`.  Paths have no leading slash."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._number = 0
        self._folders: set[str] = set()

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """A regular file, and the folders above it that were not written yet."""
        self._above(path)
        self._entry(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._above(path)
        self._entry(path, stat.S_IFLNK | 0o777, os.fsencode(target))

    def device(self, path: str, major: int, minor: int) -> None:
        """A character device."""
        self._above(path)
        self._entry(path, stat.S_IFCHR | 0o600, b"", (major, minor))

    def folder(self, path: str) -> None:
        """A folder; nothing when it is there already."""
        if path and path not in self._folders:
            self._above(path)
            self._folders.add(path)
            self._entry(path, stat.S_IFDIR | 0o755, b"")

    def tree(self, root: Path, leave_out: Iterable[str] = ()) -> None:
        """Everything below `root` but what lies under the paths `leave_out`."""
        leave_out = set(leave_out)
        for folder, folders, files in os.walk(root):
            for name in sorted(folders + files):
                path = Path(folder, name)
                below = str(path.relative_to(root))
                if below in leave_out:
                    folders[:] = [other for other in folders if other != name]
                elif path.is_symlink():
                    self.link(below, os.fspath(path.readlink()))
                elif path.is_dir():
                    self.folder(below)
                else:
                    self.file(below, path.read_bytes(), stat.S_IMODE(path.stat().st_mode))

    def end(self) -> None:
        """The trailer.  The kernel wants the next archive at a multiple of four bytes."""
        self._entry("TRAILER!!!", 0, b"")

    def _above(self, path: str) -> None:
        self.folder(path.rpartition("/")[0])

    def _entry(
        self, path: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)
    ) -> None:
        self._number += 1
        name = os.fsencode(path) + b"\0"
        # inode, mode, owner, group, links, time, size, device of the file (2), device it is (2),
        # length of the name, checksum (none in this format)
        numbers = (self._number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
        self._padded(b"070701" + b"".join(b"%08x" % number for number in numbers) + name)
        self._padded(content)

    def _padded(self, data: bytes) -> None:
        self._file.write(data + bytes(-len(data) % 4))
