# SPDX-License-Identifier: GPL-2.0-or-later
"""The events that qubesd would have sent between two states of an embedded Qubes.

Names and fields as in qubes-core-admin 4.3.50, as far as its client tools listen to them. `pre`
events are left out, but for the start of a qube; what changed and changed back is not seen.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

State = dict[str, Any]

_POWER_EVENTS = {
    ("Halted", "Running"): ("domain-pre-start", "domain-start"),
    ("Running", "Halted"): ("domain-shutdown",),
    ("Running", "Paused"): ("domain-paused",),
    ("Paused", "Running"): ("domain-unpaused",),
    ("Paused", "Halted"): ("domain-shutdown",),
    ("Halted", "Paused"): ("domain-pre-start", "domain-start", "domain-paused"),
}


class Event(NamedTuple):
    """One event; subject "" is the machine."""

    subject: str
    name: str
    fields: dict[str, str]


def events(old: State, new: State) -> Iterator[Event]:
    """What happened from `old` to `new`, two snapshots of one machine."""
    before, after = old["qubes"], new["qubes"]
    for qube in after.keys() - before.keys():
        yield Event("", "domain-add", {"vm": qube})
    yield from _properties("", old["globals"], new["globals"])
    for qube in sorted(after.keys() & before.keys()):
        yield from _qube(qube, before[qube], after[qube])
    for qube in before.keys() - after.keys():
        yield Event("", "domain-delete", {"vm": qube})


def _qube(name: str, old: State, new: State) -> Iterator[Event]:
    yield from _properties(name, old["properties"], new["properties"])
    for key in _changed(old["features"], new["features"]):
        fields = {"feature": key, "value": str(new["features"][key])}
        yield Event(name, f"domain-feature-set:{key}", fields)
    for key in old["features"].keys() - new["features"].keys():
        yield Event(name, f"domain-feature-delete:{key}", {"feature": key})
    for tag in set(new["tags"]) - set(old["tags"]):
        yield Event(name, f"domain-tag-add:{tag}", {"tag": tag})
    for tag in set(old["tags"]) - set(new["tags"]):
        yield Event(name, f"domain-tag-delete:{tag}", {"tag": tag})
    if old.get("rules") != new.get("rules"):
        yield Event(name, "firewall-changed", {})
    for event in _POWER_EVENTS.get((old["power"], new["power"]), ()):
        yield Event(name, event, {})


def _properties(subject: str, old: State, new: State) -> Iterator[Event]:
    for key in _changed(old, new):
        fields = {"name": key, "newvalue": str(new[key])}
        yield Event(subject, f"property-set:{key}", fields)
    for key in old.keys() - new.keys():
        yield Event(subject, f"property-reset:{key}", {"name": key})


def _changed(old: State, new: State) -> list[str]:
    return [key for key in new if key not in old or old[key] != new[key]]
