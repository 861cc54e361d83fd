# SPDX-License-Identifier: GPL-2.0-or-later
"""Which relays of a list are wanted: what ``tunnels.NAME.relays`` and the options say."""

import fnmatch
from typing import NamedTuple

import qubes_vpn_mullvad_pillar
import qubes_vpn_relays
from qubes_vpn_formula.errors import UserError
from qubes_vpn_problem import suggest


class Selection(NamedTuple):
    """Everything given must fit; what is empty or None does not choose.

    hostnames: names or patterns, of which one must fit.  port: of Mullvad's relays that to which
    the app is pinned, of a plain list's the only one wanted.  shadowsocks, udp2tcp: the ports of
    these, or None.  quic, api: that of Mullvad's too.  also: destinations beside the relays'.
    """

    countries: tuple = ()
    cities: tuple = ()
    owner: str | None = None
    hosted_by: tuple = ()
    hostnames: tuple = ()
    port: int | None = None
    shadowsocks: int | None = None
    udp2tcp: int | None = None
    quic: bool = False
    ipv6: bool = False
    api: bool = True
    also: tuple = ()

    @classmethod
    def of_pillar(cls, relays):
        """That of ``tunnels.NAME.relays``, as the model has it."""
        return cls(**{key: relays[key] for key in cls._fields})

    def as_pillar(self, kind):
        """What the pillar says of it, without defaults.  kind: of the list."""
        said = self._replace(port=self.mullvad_port) if kind == "mullvad" else self
        return qubes_vpn_relays.chosen({"list": kind, **said._asdict()})

    @property
    def mullvad_port(self):
        """The app's port."""
        return self.port or qubes_vpn_mullvad_pillar.WIREGUARD_PORT

    def words(self):
        """It in words, or empty for all relays."""
        said = [*self.countries, *self.cities]
        said += [self.owner] if self.owner else []
        return ", ".join([*said, *self.hosted_by, *self.hostnames])


def fitting(listed, wishes):
    """The active relays of *listed* that fit *wishes*, at least one; raises `UserError`."""
    _check(listed, wishes)
    fit = fitting_any(listed.relays, wishes)
    active = [relay for relay in fit if relay.active]
    if not active:
        what = "every relay that fits is inactive" if fit else "no relay fits"
        fix = "Choose another country, owner or entry."
        raise UserError(what, fix, file=listed.path)
    return active


def fitting_any(relays, wishes):
    """Those of *relays* that fit *wishes*, inactive ones too."""
    countries, cities, companies = (
        {text.casefold() for text in texts}
        for texts in (wishes.countries, wishes.cities, wishes.hosted_by)
    )
    return [
        relay
        for relay in relays
        if (not countries or relay.country in countries)
        and (not cities or relay.city in cities)
        and (wishes.owner is None or relay.owner == wishes.owner)
        and (not companies or relay.hosted_by.casefold() in companies)
        and (not wishes.hostnames or any(_like(relay, each) for each in wishes.hostnames))
        and (wishes.port is None or relay.port in (None, wishes.port))
    ]


def spelled(listed, wishes):
    """*wishes* with companies as the list writes them: the Mullvad app knows them by that only."""
    names = sorted({relay.hosted_by for relay in listed.relays})
    found = [
        name for wish in wishes.hosted_by for name in names if name.casefold() == wish.casefold()
    ]
    return wishes._replace(hosted_by=tuple(dict.fromkeys(found)))


def _like(relay, pattern):
    return fnmatch.fnmatchcase(relay.hostname, pattern)


def _check(listed, wishes):
    """Each single wish is one that some relay fulfils."""
    relays, path = listed.relays, listed.path
    for wanted, known, what in (
        (wishes.countries, {relay.country for relay in relays}, "country"),
        (wishes.cities, {relay.city for relay in relays}, "city"),
        (wishes.hosted_by, {relay.hosted_by for relay in relays}, "hosting company"),
    ):
        folded = {name.casefold() for name in known}
        for name in wanted:
            if name.casefold() not in folded:
                fix = suggest(name, known - {""})
                raise UserError(f"the list has no {what} '{name}'", fix, file=path)
    for name in wishes.hostnames:
        if not any(_like(relay, name) for relay in relays):
            fix = suggest(name, {relay.hostname for relay in relays})
            if not fix.startswith("Did"):  # rather than all of them
                fix = f"Names are as in {relays[0].hostname}; * stands for any characters."
            raise UserError(f"the list has no relay '{name}'", fix, file=path)
    if listed.kind == "mullvad":
        _check_port(wishes.mullvad_port, listed.ports, path, "wireguard.port_ranges")
        return
    if wishes.port and all(relay.port != wishes.port for relay in relays):
        ports = [(port, port) for port in sorted({relay.port for relay in relays})]
        _check_port(wishes.port, ports, path)
    mullvads = Selection(shadowsocks=wishes.shadowsocks, udp2tcp=wishes.udp2tcp, quic=wishes.quic)
    if mullvads != Selection() or not wishes.api:
        what = "shadowsocks, udp2tcp, QUIC and the API are Mullvad's, and this list is not"
        raise UserError(what, "Leave these options out.", file=path)


def _check_port(port, ranges, path, key=None):
    if not any(first <= port <= last for first, last in ranges):
        known = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
        raise UserError(
            f"no relay listens on port {port}",
            f"Choose --port from {known}.",
            file=path,
            key=key,
        )
