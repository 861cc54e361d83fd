# SPDX-License-Identifier: GPL-2.0-or-later
"""What dom0 may ask a VPN or resolver qube for, and have done there: its qrexec services.

Answers are of the forms in :mod:`qubes_vpn_told`; no sentence leaves the qube.  dom0's own policy
lets nobody but dom0 call them, and whoever else comes is refused here once more.
"""

import importlib
import json
import os
import re

import qubes_vpn_facts
import qubes_vpn_nft
import qubes_vpn_told
from qubes_vpn_nft import Failed
from qubes_vpn_ruleset import LOG_PREFIX

#: How many lines of the kernel's log are looked at, and told.
_LINES, _ROWS = 20000, 1000
_FIELD = re.compile(r"\b([A-Z]+)=(\S*)")


class NotServed(Exception):
    """Nobody may have this, or there is no such thing here: the text says so, in the qube."""


def serve(name, argument=""):
    """The answer, as text, of the service *name* to its *argument*; raises :class:`NotServed`."""
    caller = os.environ.get("QREXEC_REMOTE_DOMAIN")
    if caller != "dom0":
        raise NotServed(f"{caller} may not call {name}: only dom0 may")
    if name not in qubes_vpn_told.SERVICES or (argument and name != "Switch"):
        raise NotServed(f"there is no {name}+{argument}")
    if name == "Rules":
        return qubes_vpn_nft.run("nft", "-j", "list", "ruleset")
    if name == "Drops":
        return _form(drops())
    if name == "Status":
        return _form(qubes_vpn_facts.facts())
    # A resolver's template has no tunnel to bring up.
    return _form(importlib.import_module("qubes_vpn_switching").do(name, argument))


def drops():
    """What the rules stopped and noted since the qube's start, if they are told to note it."""
    words = ("journalctl", "-k", "-b", "-o", "short-unix", "--no-pager", "-q", "-n", str(_LINES))
    try:
        said = qubes_vpn_nft.run(*words)
        log = f'log prefix "{LOG_PREFIX}"' in qubes_vpn_nft.run(
            "nft", "list", "chain", "inet", "qubes_vpn", "note"
        )
    except Failed:
        said, log = "", False
    rows = [row for line in said.splitlines() if LOG_PREFIX in line for row in _row(line)]
    return {"log": log, "rows": rows[-_ROWS:]}


def _row(line):
    """One row, or none where the line is not the kernel's."""
    before, _, packet = line.partition(LOG_PREFIX)
    fields = {}
    for key, value in _FIELD.findall(packet):
        fields.setdefault(key, value)  # what an ICMP error cites comes later
    try:
        yield {
            "time": int(float(before.split()[0])),
            "in": fields.get("IN") or None,
            "out": fields.get("OUT") or None,
            "from": fields["SRC"],
            "to": fields["DST"],
            "protocol": fields["PROTO"],
            "from_port": int(fields["SPT"]) if "SPT" in fields else None,
            "to_port": int(fields["DPT"]) if "DPT" in fields else None,
        }
    except (KeyError, ValueError, IndexError):
        return


def _form(answer):
    return json.dumps({"version": qubes_vpn_told.VERSION, **answer})
