# SPDX-License-Identifier: GPL-2.0-or-later
"""The killswitches that public guides tell their readers to set up, to be attacked like ours.

Each is what following the guide puts into a VPN qube, with its mistakes.  The documents are s0
(Mullvad guide), s1 (sys-vpn and sys-dns notes) and s2 (network verification article); s3 (field
manual) has none.  Left out, because they are not inside the VPN qube: rules in the next qube.
"""

from qubes_vpn_formula.lab.guides import article, mullvad, notes, shapes
from qubes_vpn_formula.lab.guides.guide import Guide

__all__ = ["Guide", "all"]


def all() -> list[Guide]:
    """Every guide's killswitch: the documents' first, then shapes that are common in public."""
    return [*mullvad.GUIDES, *notes.GUIDES, *article.GUIDES, *shapes.GUIDES]
