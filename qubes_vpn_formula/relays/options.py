# SPDX-License-Identifier: GPL-2.0-or-later
"""The options that choose relays: the same for every command."""

import qubes_vpn_mullvad_pillar
import qubes_vpn_relays
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.relays.selection import Selection


def add(group):
    """Adds them to an argparse *group*."""
    group.add_argument(
        "--country",
        metavar="CC",
        dest="countries",
        action="append",
        default=[],
        type=str.lower,
        help="only relays there, such as se; may be repeated",
    )
    group.add_argument(
        "--city",
        metavar="CITY",
        dest="cities",
        action="append",
        default=[],
        type=str.lower,
        help="only relays there, as the list calls it, such as got; may be repeated",
    )
    group.add_argument(
        "--owner",
        nargs="?",
        const="owned",
        choices=["owned", "rented"],
        help="only relays that the provider owns (the default of --owner), or rents",
    )
    group.add_argument(
        "--hosted-by",
        metavar="COMPANY",
        action="append",
        default=[],
        help="only relays in its data centres; may be repeated",
    )
    group.add_argument(
        "--hostname",
        "--entry",
        metavar="NAME",
        dest="hostnames",
        action="append",
        default=[],
        type=str.lower,
        help="only this relay, such as se-got-wg-001, or such as 'se-*'; may be repeated. With "
        "multihop these are the entry relays: the exits are reached through them",
    )
    group.add_argument(
        "--port",
        type=int,
        help="Mullvad: the port that the app is pinned to (default: "
        f"{qubes_vpn_mullvad_pillar.WIREGUARD_PORT}); another list: only what has this port",
    )
    group.add_argument(
        "--shadowsocks",
        metavar="PORT",
        type=int,
        help="Mullvad: the relays' further addresses for shadowsocks too, on this port",
    )
    group.add_argument(
        "--udp2tcp",
        metavar="PORT",
        type=int,
        help="Mullvad: the relays by TCP too, on port 80, 443 or 5001",
    )
    group.add_argument(
        "--quic", action="store_true", help="Mullvad: the relays' further addresses for QUIC too"
    )
    group.add_argument("--ipv6", action="store_true", help="the relays' IPv6 addresses too")
    group.add_argument(
        "--no-api", dest="api", action="store_false", help="Mullvad: without the API's address"
    )
    group.add_argument(
        "--also",
        metavar="ENDPOINT",
        action="append",
        default=[],
        help="an endpoint of your own beside them: ADDRESS:PORT/PROTOCOL; may be repeated",
    )


def given(args):
    """Names of those options of *args* that say something, as on the command line."""
    empty = Selection()._asdict()
    return [_option(key) for key, default in empty.items() if _value(getattr(args, key)) != default]


def selection(args):
    """The :class:`Selection` that *args* ask for; raises :class:`UserError`."""
    said = {key: _value(getattr(args, key)) for key in Selection._fields}
    rest = {"list": "mullvad", "taken": "2000-01-01", "sha256": "0" * 64}
    said = {key: _list(value) for key, value in said.items() if value is not None}
    problems = []
    read = qubes_vpn_relays.RELAYS.read({**said, **rest}, (), problems)
    if problems:
        problem = problems[0]
        raise UserError(problem.what, problem.fix, key=_option(problem.path[0]))
    return Selection(**{key: read[key] for key in Selection._fields})


def _option(key):
    """The option for *key* of a selection."""
    names = {"countries": "country", "cities": "city", "hostnames": "hostname", "api": "no-api"}
    return f"--{names.get(key, key).replace('_', '-')}"


def _value(value):
    return tuple(value) if isinstance(value, list) else value


def _list(value):
    return list(value) if isinstance(value, tuple) else value
