# SPDX-License-Identifier: GPL-2.0-or-later
"""Endpoints from chosen relays: exactly their addresses, and no more than Qubes can take."""

import collections
import ipaddress
from typing import NamedTuple

import qubes_vpn_endpoints
import qubes_vpn_mullvad_pillar as mullvad
import qubes_vpn_net
import qubes_vpn_relays
from qubes_vpn_formula.errors import UserError
from qubes_vpn_formula.relays import inuse
from qubes_vpn_formula.relays.selection import fitting, spelled
from qubes_vpn_profile_data import Endpoint, endpoint, once


class Chosen(NamedTuple):
    """The outcome of a selection.

    kind: of the list.  relays: those that fit.  endpoints: ``Endpoint``, with what the qube uses
    and the selection no longer has (*kept*, of these).  destinations: the same, as the model has
    them.  taken: the day, as text.
    """

    kind: str
    selection: object
    relays: tuple
    endpoints: tuple
    kept: tuple
    destinations: tuple
    taken: str

    def as_pillar(self):
        """``tunnels.NAME.relays``."""
        said = {**self.selection.as_pillar(self.kind), "taken": self.taken}
        read = qubes_vpn_relays.RELAYS.read({**said, "sha256": "0" * 64}, (), [])
        return {**said, "sha256": qubes_vpn_relays.checksum(read, self.destinations)}

    @property
    def locations(self):
        """Where the relays are, as the app calls it: one relay or city, or the countries."""
        if len(self.relays) == 1:
            return [self.relays[0].hostname]
        cities = sorted({f"{relay.country} {relay.city}" for relay in self.relays})
        if len(cities) == 1 or self.selection.cities:  # of a country there would be more
            return cities
        return sorted({relay.country for relay in self.relays})


def choose(listed, wishes, taken, in_use=(), before=()):
    """The :class:`Chosen` of the list *listed*; raises :class:`UserError`.

    in_use: addresses (of :mod:`ipaddress`) that the tunnel uses now.  before: its destinations
    until now; what of these is in use stays, alone and on its own port, wherever the selection
    leads.
    """
    relays, wishes = tuple(fitting(listed, wishes)), spelled(listed, wishes)
    found = [*_of_relays(relays, wishes, listed)]
    if listed.kind == "mullvad" and wishes.api:
        found.append(endpoint(mullvad.API, mullvad.API_PORT, "tcp", "api.mullvad.net"))
    found += [Endpoint(also.text, "of your own") for also in wishes.also]
    found = once(found)
    kept = tuple(inuse.kept(found, in_use, before))
    every = (*found, *kept)
    destinations = tuple(qubes_vpn_net.endpoint(each.text) for each in every)
    chosen = Chosen(listed.kind, wishes, relays, every, kept, destinations, taken)
    _refuse_size(chosen, listed.path)
    return chosen


def _of_relays(relays, wishes, listed):
    """In as few prefixes as hold each address of the relays and not one more."""
    names = collections.defaultdict(dict)  # (version, port, protocol) -> address -> host name
    for relay in relays:
        for address, port, proto, name in _single(relay, wishes, listed):
            if address.version == 4 or wishes.ipv6:
                names[address.version, port, proto].setdefault(address, name)
    if not names:
        raise UserError("the relays that fit have IPv6 only", "Add --ipv6.", file=listed.path)
    for (_, port, proto), here in sorted(names.items(), key=lambda pair: pair[0]):
        yield from _collapsed(here, port, proto, listed.path)


def _single(relay, wishes, listed):
    """``(address, port, protocol, name)`` of all that a client of *relay* connects to."""
    name = relay.hostname
    for address in relay.addresses:
        yield address, relay.port or wishes.mullvad_port, relay.proto, name
        if wishes.udp2tcp:
            _refuse_port(
                "udp2tcp",
                wishes.udp2tcp,
                [(each, each) for each in mullvad.UDP2TCP_PORTS],
                name,
                listed,
            )
            yield address, wishes.udp2tcp, "tcp", f"{name}, udp2tcp"
        if wishes.shadowsocks:
            # As the app chooses: one of the further addresses, if there are any, on any port.
            extra = [each for each in relay.shadowsocks if each.version == address.version]
            if not extra:
                ports = listed.shadowsocks_ports
                _refuse_port("shadowsocks", wishes.shadowsocks, ports, name, listed)
            for each in extra or [address]:
                yield each, wishes.shadowsocks, "udp", f"{name}, shadowsocks"
    if wishes.quic:
        for address in relay.quic:
            yield address, mullvad.QUIC_PORT, "udp", f"{name}, quic"


def _refuse_port(option, port, ranges, name, listed):
    if not any(first <= port <= last for first, last in ranges):
        known = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
        raise UserError(
            f"{name} does not listen for {option} on port {port}",
            f"Choose --{option} from {known}." if known else f"Leave --{option} out.",
            file=listed.path,
        )


def _collapsed(names, port, proto, path):
    for network in ipaddress.collapse_addresses(map(ipaddress.ip_network, names)):
        inside = [names[address] for address in network]  # each is there, or this is an error
        origin = inside[0] if len(inside) == 1 else f"{inside[0]} and {len(inside) - 1} more"
        single = network.prefixlen == network.max_prefixlen
        text = str(network.network_address if single else network)
        yield endpoint(text, port, proto, origin, file=path)


def _refuse_size(chosen, path):
    """Too much for one Admin API call, or for the killswitch; says where most of it is."""
    destinations = chosen.destinations
    size = qubes_vpn_net.rules_size(qubes_vpn_net.rules(destinations))
    what = None
    if size > qubes_vpn_net.FIREWALL_LIMIT:
        what = (
            f"{len(destinations):,} endpoints are firewall rules of {size:,} bytes, and Qubes "
            f"accepts {qubes_vpn_net.FIREWALL_LIMIT:,}"
        )
    else:
        try:
            qubes_vpn_endpoints.elements(destinations)
        except qubes_vpn_endpoints.NotEndpoints as error:
            what = error.problems[0].partition(". ")[0]
    if what:
        counted = collections.Counter(relay.country for relay in chosen.relays if relay.country)
        most = ", ".join(f"{country} ({count})" for country, count in counted.most_common(3))
        fix = "Choose by --country, --city, --owner or --hostname"
        fix += f"; most relays are in {most}." if most else "."
        raise UserError(what, fix, file=path)
