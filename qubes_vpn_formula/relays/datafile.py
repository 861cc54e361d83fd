# SPDX-License-Identifier: GPL-2.0-or-later
"""Chosen endpoints as a file beside the pillar: dated, with its selection and a checksum.

Its grammar is that of a VPN qube's ``endpoints.txt``, with what is ours in comments.
"""

import json
import re

import qubes_vpn_endpoints
import qubes_vpn_relays
from qubes_vpn_formula.errors import UserError, read_bytes

_HEAD = "# Endpoints that 'qubes-vpn relays' chose: "
_AGAIN = "Make it anew: qubes-vpn relays --from LIST --output FILE."


def text(chosen):
    """All of the file."""
    said = chosen.as_pillar()
    width = max(len(found.text) for found in chosen.endpoints) + 2
    lines = [f"{found.text:{width}}# {found.origin}" for found in chosen.endpoints]
    return "\n".join([_HEAD + json.dumps(said), *lines, ""])


def is_one(start):
    """Whether a file that begins with *start* is one."""
    return start.startswith(_HEAD)


def read(path):
    """``(selection as the model has it, destinations)``; :class:`UserError` if it was edited."""
    raw = read_bytes(path)
    head = re.match(re.escape(_HEAD) + r"(\{.*\})\r?\n", raw[:100_000].decode("utf-8", "replace"))
    problems = []
    try:
        said = json.loads(head[1]) if head else None
        relays = qubes_vpn_relays.RELAYS.read(said, (), problems)
        found = qubes_vpn_endpoints.read(raw, path)
        whole = said and not problems
        if whole and qubes_vpn_relays.checksum(relays, found) == relays["sha256"]:
            return relays, found
    except (ValueError, RecursionError):  # NotEndpoints is one too
        pass
    raise UserError("it was edited since it was written", _AGAIN, file=path)
