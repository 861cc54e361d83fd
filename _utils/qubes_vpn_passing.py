# SPDX-License-Identifier: GPL-2.0-or-later
"""What dom0 notes of a bypass: which qube it is, and until when.  Pure functions.

The note is a feature of dom0's, before there is such a qube and until there is none: ``1`` while it
is made, then its uuid and the time of its end, in seconds since 1970.
"""

import datetime
import re
import time

#: That feature's name, before the qube's.
NOTE = "x-qubes-vpn-bypass."
#: What it has from the moment it is made.
LABEL = "red"
_NOTED = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?: ([0-9]{1,11}))?")


def note(uuid, until):
    """The note of the qube of this uuid, until so many seconds since 1970."""
    return f"{uuid} {until}"


def uuid(noted):
    """Of which qube a note is; None: it is only being made."""
    found = _NOTED.fullmatch(noted or "")
    return found and found[1]


def until(noted):
    """Until when, in seconds since 1970; None: not known."""
    found = _NOTED.fullmatch(noted or "")
    return int(found[2]) if found and found[2] else None


def words(end, zone=None):
    """Until when, in words, as of now: ``until 14:05``, with the date if it is not today's.

    end: :func:`until`.  zone: a ``datetime.tzinfo``, or None for this machine's.
    """
    if end is None:
        return "for a time that is not known"
    at, now = (datetime.datetime.fromtimestamp(each, zone) for each in (end, time.time()))
    told = at.strftime("%H:%M" if at.date() == now.date() else "%Y-%m-%d %H:%M")
    return f"until {told}" if now < at else f"until {told}, which is over"
