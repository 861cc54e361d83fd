# SPDX-License-Identifier: GPL-2.0-or-later
"""What a proof stops at: something in a rule set that has no model here."""

_LONGEST = 200


class NotModelled(Exception):
    """The text says where, what, and nothing else; what is not modelled is never harmless.

    Both are cut where they are longer than people read.
    """

    def __init__(self, where: str, what: str) -> None:
        where, what = where[:_LONGEST], what[:_LONGEST]
        super().__init__(f"{where}: {what} is not modelled")
        self.where, self.what = where, what
