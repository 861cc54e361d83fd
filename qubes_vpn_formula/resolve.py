# SPDX-License-Identifier: GPL-2.0-or-later
"""Host names to addresses: once, at generation, in the open (R35)."""

import socket

from qubes_vpn_formula.errors import UserError
from qubes_vpn_profile_data import is_address


def given(pairs):
    """Addresses by host name, from ``NAME=ADDRESS[,...]`` texts; raises :class:`UserError`."""
    found = {}
    for pair in pairs:
        name, _, listed = pair.partition("=")
        addresses = [address.strip().strip("[]") for address in listed.split(",")]
        if not name or not all(map(is_address, addresses)):
            raise UserError(
                f"'{pair}' is not NAME=ADDRESS[,ADDRESS...]",
                "For example --address se.example.net=198.51.100.7,2001:db8::7.",
                key="--address",
            )
        found.setdefault(name.rstrip(".").lower(), []).extend(addresses)
    return found


def ask(name):
    """All addresses that this machine's resolver knows for *name*; raises :class:`UserError`."""
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise UserError(
            f"the resolver has no address for {name}: {error.strerror}",
            f"Look it up elsewhere and give it: --address {name}=ADDRESS.",
        ) from None
    return list(dict.fromkeys(address[0].partition("%")[0] for *_, address in answers))
