# SPDX-License-Identifier: GPL-2.0-or-later
"""Rule sets from nft's text: the kernel and nft say themselves what is loaded."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Link(NamedTuple):
    """A device that exists while a text is loaded.  kind: tun, veth..."""

    name: str
    group: int = 0
    kind: str = "veth"


def listing(texts: Sequence[str], links: Sequence[Link] = ()) -> dict[str, Any]:
    """`nft -j list ruleset` after *texts* were loaded, one by one, in a namespace of its own.

    Each text is one transaction.  Raises UserError with nft's words.
    """
    raise NotImplementedError
