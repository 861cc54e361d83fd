# SPDX-License-Identifier: GPL-2.0-or-later
"""Who has to do what an embedded Qubes is told, before the next call gets through.

A real qubesd moves cables and starts qubes itself, and answers when that is done.  A follower
listens on the socket PATH.follower beside the state file, hears of each call that writes, by
whichever process, and the call's answer waits for it.
"""

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

State = dict[str, Any]


class Follower:
    """A context manager: from its beginning to its end each write is followed.

    path: the state file.
    do: called with the machine's state after a write, and with the state there is at the beginning.
        It must make no call itself.
    trouble: what it raised, the oldest first; the calls themselves do not fail for that.
    """

    def __init__(self, path: Path, do: Callable[[State], None]) -> None:
        self._path, self._do = path, do
        self._address = _address(path)
        self.trouble: list[Exception] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._heard()
        self._socket.bind(str(self._address))
        self._socket.listen(16)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._address.unlink()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _follow(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            with caller:
                self._heard()

    def _heard(self) -> None:
        try:
            self._do(json.loads(self._path.read_text("utf-8"))["state"])
        except Exception as error:  # whatever it is: the caller must not wait for ever
            self.trouble.append(error)


def wait(path: Path) -> None:
    """A call has written: returns when the follower has followed, or when there is none.

    path: the state file.
    """
    address = _address(path)
    if not address.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as there:
        there.connect(str(address))
        there.recv(1)


def _address(path: Path) -> Path:
    return path.with_name(f"{path.name}.follower")
