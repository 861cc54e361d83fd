# SPDX-License-Identifier: GPL-2.0-or-later
"""All rules of a machine as data, for an audit: dom0's firewall lists, and what is loaded (R66).

Format, version 1::

    {"format": "qubes-vpn rules", "version": 1,
     "lists": {qube: [rule]},      every firewall list, as `qvm-firewall --raw list` has it
     "loaded": {qube: [object]},   of `nft -j list ruleset` in VPN and resolver qubes that run
     "silent": {qube: text}}       why one of them tells nothing
"""

import json

from qubes_vpn_problem import without_secret
from qubes_vpn_told import NotUnderstood

FORMAT, VERSION = "qubes-vpn rules", 1
#: Of an answer: tens of thousands of endpoints are some megabytes.
SECONDS, MOST = 60, 16 * 1024**2
#: What nft writes is never as deep, nor a number as large.
_DEEPEST, _LARGEST = 40, 2**64
#: Nor has it as many values.  One that is empty takes 20 times its text here: `{},` and again.
_VALUES = 2_000_000


def export(lists, loaded, silent):
    """The data of that form."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "lists": lists,
        "loaded": loaded,
        "silent": silent,
    }


def lists(machine):
    """Every firewall list of a :class:`qubes_vpn_machine.Machine`, by qube."""
    return {
        name: [without_secret(rule) for rule in machine.rules(name)]
        for name in machine.names()
        if machine.klass(name) != "RemoteVM"
    }


def read(data):
    """The rules that one qube answers, as nft has them; raises ``NotUnderstood``.

    What it costs dom0 is bounded by what is counted before it is parsed.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > _VALUES:
        raise NotUnderstood("the answer has more values than rules have")
    try:
        found = json.loads(data.decode("ascii"))["nftables"]
        if isinstance(found, list) and all(
            isinstance(one, dict) and _is_plain(one) for one in found
        ):
            return found
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise NotUnderstood("the answer has no rules as nft has them")


def _is_plain(value, depth=_DEEPEST):
    """Whether it is JSON that may be shown in dom0: no other text, and no fractions or NaN."""
    if depth == 0 or isinstance(value, float):
        return False
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        return all(_is_plain(each, depth - 1) for each in value)
    if isinstance(value, str):
        return value.isascii() and value.isprintable()
    return value is None or abs(value) < _LARGEST
