# SPDX-License-Identifier: GPL-2.0-or-later
"""Who has not been looked over for updates for long, and who has been running for long (R14).

Pure functions of an inventory (:mod:`qubes_vpn_inventory`).  Qubes notes in features, in dom0's own
time, when somebody told how many updates wait, and when none waited any more (qubes-core-admin,
``qubes/api/misc.py``; of dom0 qubes-core-admin-linux, ``dom0-updates/``).  A qube that is made from
a template tells of it too, by its own netvm, but only that some wait.  So a template has
got its updates itself only where none wait, or by the time since which none did.
"""

import datetime

#: Days by default: Qubes' own updater looks again after 7 (``qubes-vm-update --update-if-stale``).
CHECK_DAYS, RESTART_DAYS = 7, 30
CHECKED, UPDATED, WAITING = "last-updates-check", "last-update", "updates-available"
#: The user's own choice, and what the updater passes over.
SKIPPED = "skip-update"
_UPDATEABLE = ("AdminVM", "StandaloneVM", "TemplateVM")
_FORM = "%Y-%m-%d %H:%M:%S"
_FUTURE = datetime.timedelta(days=1)


def overdue(inventory, days):
    """``(name, sentence)`` of dom0, templates and standalones that were current too long ago."""
    now = datetime.datetime.fromisoformat(inventory["taken"]).replace(tzinfo=None)
    for name, qube in sorted(inventory["qubes"].items()):
        features = qube["features"]
        passed_over = features.get(SKIPPED) or features.get("os", "Linux") != "Linux"
        said = _overdue(features, now, days)
        if said and qube["class"] in _UPDATEABLE and not passed_over:
            yield name, said


def _overdue(features, now, days):
    waiting = bool(features.get(WAITING))
    times = [_time(features.get(key)) for key in ([UPDATED] if waiting else [UPDATED, CHECKED])]
    known = max(filter(None, times), default=None)
    what = "updates wait, and " if waiting else ""
    if known is None:
        never = "none were ever noted as installed" if waiting else "nobody has looked for updates"
        return f"{what}{never}"
    if known > now + _FUTURE:
        return f"{what}the note of when it was up to date is in the future: a clock was wrong"
    age = (now - known).days
    return f"{what}it was up to date {age} days ago" if age > days else None


def long_running(inventory, days):
    """``(name, sentence)`` of the qubes that have been running for more than *days*."""
    now = datetime.datetime.fromisoformat(inventory["taken"]).timestamp()
    for name, qube in sorted(inventory["qubes"].items()):
        age = up_days(qube, now)
        if age is not None and age > days:
            yield name, f"it has been running for {age} days"


def running_since_unknown(inventory):
    """``(name, sentence)`` of the qubes that run, and do not say since when."""
    for name, qube in sorted(inventory["qubes"].items()):
        runs = qube["class"] != "AdminVM" and qube["power"] not in ("Halted", "NA")
        if runs and up_days(qube, 0) is None:
            yield name, "since when it has been running is not known"


def up_days(qube, now):
    """For how many days a qube of an inventory has been running at *now* (seconds); or None."""
    started = qube["properties"].get("start_time", {}).get("value")
    try:
        return max(0, int((now - float(started)) // 86400)) if started else None
    except (OverflowError, ValueError):
        return None


def _time(text):
    try:
        return datetime.datetime.strptime(text, _FORM) if text else None
    except ValueError:
        return None
