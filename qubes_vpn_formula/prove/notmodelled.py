# SPDX-License-Identifier: GPL-2.0-or-later
"""What a proof stops at: something in a rule set that has no model here."""


class NotModelled(Exception):
    """The text says where, what, and nothing else; what is not modelled is never harmless."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what} is not modelled")
        self.where, self.what = where, what
