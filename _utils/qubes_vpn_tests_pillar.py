# SPDX-License-Identifier: GPL-2.0-or-later
"""What the pillar says of the tests that a user runs (R60 to R64): its key ``tests``."""

import ipaddress

from qubes_vpn_problem import Problem
from qubes_vpn_types import Keys, ListOf, MapOf, Name, Pattern, Switch, refuse

#: Mullvad's, which tells everybody the address that it sees, and whether it is one of its exits.
_MULLVAD = "https://am.i.mullvad.net/json"
#: The Tor project's (https://check.torproject.org/api/ip).
TOR = {"url": "https://check.torproject.org/api/ip", "address": "IP", "provider": "IsTor"}
#: Nobody is there: addresses for documentation (RFC 5737, RFC 3849).
NOBODY = ("192.0.2.53", "2001:db8::53")


class _Network:
    """An address, or a network of addresses; kept as text."""

    def __init__(self, single):
        self.single = single

    def read(self, value, path, problems):
        try:
            if isinstance(value, str) and "%" not in value:
                found = ipaddress.ip_network(value)
                if not self.single:
                    return str(found)
                if "/" not in value:
                    return str(found[0])
        except ValueError:
            pass
        what = "an address" if self.single else "an address or a network"
        fix = 'Write it as in 185.65.135.68 or "2001:db8::1".'
        refuse(value, path, problems, f"this is not {what}", fix)
        return None


_KEY = Pattern(
    r"[A-Za-z_][A-Za-z0-9_]{0,40}\Z",
    "is not the name of a value in JSON",
    "Write letters, digits and '_', as in mullvad_exit_ip.",
)
_CHECK = Keys(
    {
        "url": (
            Pattern(
                r"https?://[a-z0-9][a-z0-9.-]{0,250}(:[1-9][0-9]{0,4})?(/[A-Za-z0-9._~/-]{0,200})?\Z",
                "is not a web address that can be asked",
                "Write it as in https://am.i.mullvad.net/json, without a login and a '?'.",
            ),
            None,
        ),
        "address": (_KEY, None),
        "provider": (_KEY, None),
        "exits": (ListOf(_Network(single=False)), ()),
    }
)
TESTS = Keys(
    {
        "clients": (ListOf(Name()), None),
        "destructive": (Switch(), False),
        "uplink": (Switch(), True),
        "checks": (MapOf(_CHECK, "sys-vpn: {url: https://...}"), {}),
        "nobody": (ListOf(_Network(single=True)), NOBODY),
        "domain": (
            Pattern(
                r"([a-z0-9-]{1,40}\.){1,4}[a-z]{2,20}\Z",
                "is not a domain",
                "Write one that exists, as in example.org.",
            ),
            "example.org",
        ),
    }
)


def settings(values):
    """The key's values with the defaults."""
    return TESTS.read({}, (), []) if values is None else values


def check(model, name):
    """How the exit of a tunnel, or of Whonix' gateway, is asked: the values of ``checks``."""
    given = model.tests["checks"].get(name) or {"url": None, "exits": ()}
    if given["url"]:
        return given
    if name == model.whonix_gateway:
        return {**TOR, "exits": given["exits"]}
    # Others' own exits Mullvad does not know: it tells them the address.
    provider = "mullvad_exit_ip" if model.services[name].kind == "mullvad" else None
    return {"url": _MULLVAD, "address": "ip", "provider": provider, "exits": given["exits"]}


def problems(model):
    """What the rest of the pillar says otherwise."""
    path = ("qubes_vpn", "tests")
    known = [*model.tunnels(), model.whonix_gateway]
    for name, keys in model.tests["checks"].items():
        if name not in known:
            fix = f"Checks are for tunnels and Whonix' gateway: {', '.join(known)}."
            yield Problem((*path, "checks", name), "no tunnel has that name", fix)
        elif (keys["address"] or keys["provider"]) and not keys["url"]:
            what = "what is in an answer is said, and not whose answer"
            yield Problem((*path, "checks", name), what, "Add the 'url'.")
        elif keys["provider"] and not keys["address"]:
            what = "a 'provider' is read from JSON, which has the address under a name too"
            yield Problem((*path, "checks", name), what, "Add 'address', as in pillar.example.")
    for name in model.tests["clients"] or ():
        if name in model.services or name in model.vaults or name in model.outside_vpn:
            what = f"{name} is no client of a tunnel"
            fix = "Name qubes that are to be behind one."
            yield Problem((*path, "clients"), what, fix)
