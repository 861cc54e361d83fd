# SPDX-License-Identifier: GPL-2.0-or-later
"""Endpoints that a running tunnel uses: they stay, though the list has them no longer."""

import ipaddress
import json
import re

import qubes_vpn_net
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.relays import reading
from qubes_vpn_problem import show
from qubes_vpn_profile_data import Endpoint

#: The comment beside one of them.
MARK = "in use, no longer chosen"
_SOCKET = re.compile(r"\[?([0-9A-Fa-f.:]+?)\]?(?::\d{1,5})?(?:/udp|/tcp)?\Z")


def of_status(path):
    """Every address in the JSON file *path*, such as ``mullvad status --json`` prints.

    With or without a port; what else is in it is not looked at.  Raises :class:`UserError`.
    """
    try:
        todo, found = [json.loads(reading.text_of(path))], []
    except (ValueError, RecursionError):
        fix = "Take it in the VPN qube: mullvad status --json > status.json."
        raise UserError("not JSON", fix, file=path) from None
    while todo:
        value = todo.pop()
        if isinstance(value, dict | list):
            todo += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str):
            found += _addresses(value)
    return found


def named(text):
    """The address that a user named; raises :class:`UserError`."""
    for address in _addresses(text):
        return address
    fix = "Write it as in --in-use 185.65.135.68."
    raise UserError(f"{show(text)} is not an address", fix, key="--in-use")


def _addresses(text):
    """The address in *text*, which may have a port, or none."""
    socket = _SOCKET.match(text)
    for part in (text, *(socket.groups() if socket else ())):
        try:
            yield ipaddress.ip_address(part)
            return
        except ValueError:
            continue


def kept(found, in_use, before):
    """What of *before* is *in_use* and not in *found*: :class:`Endpoint`, one for each port."""
    new = [qubes_vpn_net.endpoint(each.text) for each in found] if in_use else []
    for address in in_use:
        for each in before:
            if _holds(each, address) and not any(
                _holds(one, address) and _ports(one, each) for one in new
            ):
                single = each._replace(host=f"{address}/{address.max_prefixlen}")
                yield Endpoint(single.text, MARK)


def has(destinations, address):
    """Whether *address* is in one of *destinations*."""
    return any(_holds(each, address) for each in destinations)


def _holds(destination, address):
    return destination.version == address.version and address in ipaddress.ip_network(
        destination.host
    )


def _ports(new, old):
    """Whether *new* has all the ports of *old*."""
    return new.proto == old.proto and new.first <= old.first and old.last <= new.last
