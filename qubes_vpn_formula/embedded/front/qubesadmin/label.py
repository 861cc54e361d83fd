# SPDX-License-Identifier: GPL-2.0-or-later
"""Labels, the colours of qubes."""

import functools
from typing import Any


class Label:
    """A label. It equals other labels by name, and never a string."""

    def __init__(self, app: Any, name: str) -> None:
        self.app = app
        self.name = name

    @functools.cached_property
    def color(self) -> str:
        """The colour as 0xRRGGBB."""
        return self.app.qubesd_call("dom0", "admin.label.Get", self.name).decode()

    @functools.cached_property
    def index(self) -> int:
        """The label's number."""
        return int(self.app.qubesd_call("dom0", "admin.label.Index", self.name))

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return self.name == other.name if isinstance(other, Label) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.name)
