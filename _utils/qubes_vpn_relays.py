# SPDX-License-Identifier: GPL-2.0-or-later
"""By what a tunnel's endpoints were chosen from a provider's relay list (R36).

``tunnels.NAME.relays`` holds the selection, the day, and a checksum over both and the endpoints:
so that ``qubes-vpn relays --refresh`` can choose again, and an edit by hand does not go unseen.
"""

import datetime
import hashlib
import json

import qubes_vpn_net
from qubes_vpn_problem import Problem
from qubes_vpn_types import Address, Choice, Day, Keys, ListOf, Pattern, Port, Switch, Word

#: Mullvad's lists of December 2025 and June 2026: of 539 relays 32 went, 10 got another address.
STALE_DAYS = 30

_WORDS = ListOf(Word())
_ADDRESSES = ListOf(Address(qubes_vpn_net.endpoint, qubes_vpn_net.ENDPOINT))


class _Whole(Keys):
    """Keys that are of no use when one of them is wrong."""

    def read(self, value, path, problems):
        before = len(problems)
        kept = super().read(value, path, problems)
        return kept if len(problems) == before else None


#: The keys of ``tunnels.NAME.relays``; the selection is all but the last two.
RELAYS = _Whole(
    {
        "list": (Choice("mullvad", "plain"), ...),
        "countries": (_WORDS, ()),
        "cities": (_WORDS, ()),
        "owner": (Choice("owned", "rented"), None),
        "hosted_by": (_WORDS, ()),
        "hostnames": (ListOf(Pattern()), ()),
        "port": (Port(), None),
        "shadowsocks": (Port(), None),
        "udp2tcp": (Port(), None),
        "quic": (Switch(), False),
        "ipv6": (Switch(), False),
        "api": (Switch(), True),
        "also": (_ADDRESSES, ()),
        "taken": (Day(), ...),
        "sha256": (
            Pattern(
                r"[0-9a-f]{64}\Z",
                "is not a checksum",
                "Only 'qubes-vpn relays' writes it.",
                digest=True,
            ),
            ...,
        ),
    }
)
_MULLVAD_ONLY = ("shadowsocks", "udp2tcp", "quic", "api")


def chosen(relays):
    """What *relays* (as the model has it) says that is not a default, as YAML has it."""
    kept = {}
    for key, (_, default) in RELAYS.fields.items():
        value = relays.get(key, default)
        if value != default and value is not None:
            kept[key] = [_plain(each) for each in value] if isinstance(value, tuple) else value
    return kept


def checksum(relays, endpoints):
    """The checksum of *relays* without its own, and of *endpoints* (destinations), any order."""
    said = {key: value for key, value in chosen(relays).items() if key != "sha256"}
    lines = [json.dumps(said, sort_keys=True), *sorted(found.text for found in endpoints)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def problems(path, tunnel):
    """What does not fit between the selection and its tunnel."""
    relays = tunnel.relays
    if not relays:
        return []
    found = []
    for key in _MULLVAD_ONLY:
        if relays["list"] == "plain" and relays[key] != RELAYS.fields[key][1]:
            what = "it is for Mullvad's list only"
            found.append(Problem((*path, key), what, "Remove it."))
    if not found and tunnel.endpoints and checksum(relays, tunnel.endpoints) != relays["sha256"]:
        found.append(
            Problem(
                path,
                "the selection or the endpoints were changed since they were taken",
                "Take them anew: qubes-vpn relays --from LIST --refresh FILE; endpoints of your "
                "own go under 'also'; or remove 'relays'.",
            )
        )
    return found


def stale(relays, today=None):
    """How many days old the data is, if that is too many to be relied on, else None."""
    today = today or datetime.date.today()
    days = (today - datetime.date.fromisoformat(relays["taken"])).days
    return days if days > STALE_DAYS else None


def _plain(value):
    return value.text if isinstance(value, qubes_vpn_net.Destination) else value
