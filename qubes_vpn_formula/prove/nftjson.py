# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads `nft -j list ruleset`."""

from typing import Any

from qubes_vpn_formula.prove.ruleset import Ruleset


def read(document: dict[str, Any]) -> Ruleset:
    """The rule set in *document*.  Raises NotModelled for anything that is not modelled."""
    raise NotImplementedError
