# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs until it is closed."""

from contextlib import ExitStack
from typing import Self


class Closing:
    """A context manager: what is on its ``_stack`` ends with it, or :meth:`close` says what."""

    _stack: ExitStack

    def close(self) -> None:
        """End it, and all that runs in it; may be called again."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
