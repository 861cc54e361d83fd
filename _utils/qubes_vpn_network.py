# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's network as it is, for pictures and tables: who hangs on whom, how each gets out."""

from typing import NamedTuple

import qubes_vpn_guard
import qubes_vpn_passing
from qubes_vpn_shelters import RESOLVER_FLAG, is_flagged

#: How a qube gets out.
UPLINK = "uplink"  # it is the way out
SHELTERED = "sheltered"  # into a tunnel, or Tor
CLEAR = "clear"  # past every tunnel
CLOSED = "closed"  # it has a netvm, from which no way leads out
OFFLINE = "offline"  # it has none

#: What a qube is to others: by its flags, tags and wiring.
TUNNEL, TOR, RESOLVER, FIREWALL, CLIENT = "tunnel", "tor", "resolver", "firewall", "client"
#: The mark of Whonix' gateways.
_GATEWAY = "anon-gateway"
#: A firewall list that limits nothing has it.
_NO_LIST = "action=accept"


class Qube(NamedTuple):
    """One qube.

    ip: its IPv4 address in Qubes' network, or None where it is not known.  role, way: see above.
    exit: of a sheltered one, the first tunnel or Tor gateway on its way.  chosen: whether the user
    wants it in clear.  limited: of a tunnel, whether its firewall list limits what it sends.
    bypass: of a disposable that may go past the VPN for a while, until when, in words.
    """

    name: str
    klass: str
    label: str
    netvm: str | None
    ip: str | None
    running: bool
    role: str
    way: str
    exit: str | None = None
    chosen: bool = False
    limited: bool | None = None
    bypass: str | None = None

    def clear(self):
        """How one that is in clear is called: ``in clear``, and why, where that is known."""
        if self.bypass:
            return f"in clear, bypass {self.bypass}"
        return "in clear, by choice" if self.chosen else "in clear"


def look(machine, guard=None):
    """Every :class:`Qube` of a ``qubes_vpn_machine.Machine``, sorted by name; reads only.

    Templates are left out unless they have a netvm.
    guard: of the pillar, a :class:`qubes_vpn_guard.Guard`.  Without one the machine tells itself
    what its tunnels are, by their flag, and nobody is in clear by choice.
    """
    wiring = machine.wiring()
    names = [
        name
        for name in sorted(wiring)
        if wiring[name] or machine.klass(name) not in ("TemplateVM", "RemoteVM")
    ]
    providing = {name for name in names if machine.value(name, "provides_network") is True}
    gateways = {name for name in providing if _GATEWAY in machine.tags(name)}
    if guard is None:
        guard = told_by(machine, wiring, providing, gateways)
    # A pillar's gateway is one without the mark too; of its shelters only that is no service.
    gateways |= providing & {*guard.shelters} - {*guard.services}
    qubes = [_qube(machine, name, wiring, guard, providing, gateways) for name in names]
    until = {
        name: qubes_vpn_passing.words(qubes_vpn_passing.until(machine.noted_bypass(name)))
        for name in machine.bypasses()
        if machine.is_bypass(name)
    }
    return [qube._replace(bypass=until.get(qube.name)) for qube in qubes]


def told_by(machine, wiring, providing, gateways):
    """The :class:`qubes_vpn_guard.Guard` of a machine without a pillar.

    wiring: every qube's netvm.  providing: names of those that provide network; gateways: of
    Whonix' among them.
    """
    tunnels = [name for name in wiring if is_flagged(machine, name)]
    resolvers = [name for name in wiring if is_flagged(machine, name, RESOLVER_FLAG)]
    hanging = [name for name in providing if wiring[name]]
    ends = [name for name in providing if not wiring[name] and name not in (*tunnels, *resolvers)]
    clients = [qubes_vpn_guard.path(name, wiring)[-1] for name in wiring]
    return qubes_vpn_guard.Guard(
        uplink=max(sorted(ends), key=clients.count, default=""),
        shelters=(*tunnels, *sorted(gateways)),
        services=tuple(sorted({*tunnels, *resolvers, *hanging})),
        outside_vpn=(),
        sheltered=tuple(resolvers),
    )


def _qube(machine, name, wiring, guard, providing, gateways):
    tunnels = {*guard.shelters} - gateways
    role = _role(machine, name, wiring, tunnels & providing, gateways, providing)
    way, out = _way(name, wiring, guard, role)
    return Qube(
        name=name,
        klass=machine.klass(name),
        label=machine.value(name, "label"),
        netvm=wiring[name],
        ip=machine.value(name, "ip"),
        running=machine.running(name),
        role=role,
        way=way,
        exit=out,
        chosen=way == CLEAR and name in guard.outside_vpn,
        limited=_NO_LIST not in machine.rules(name) if role == TUNNEL else None,
    )


def _role(machine, name, wiring, tunnels, gateways, providing):
    if name in tunnels or name in gateways:
        return TOR if name in gateways else TUNNEL
    if is_flagged(machine, name, RESOLVER_FLAG):
        return RESOLVER
    if name in providing:
        return FIREWALL if wiring[name] else UPLINK
    return CLIENT


def _way(name, wiring, guard, role):
    """How it gets out, and through whom."""
    names = qubes_vpn_guard.path(name, wiring)
    if len(names) == 1:
        return (UPLINK if role == UPLINK and name not in guard.services else OFFLINE), None
    if qubes_vpn_guard.may_be_in_clear(name, wiring, guard):
        return CLEAR, None
    end = names[-1]
    if end in (*guard.services, *guard.shelters) or wiring[end] is not None:
        return CLOSED, None
    # A tunnel is its own way out; what hangs on one goes in there.
    return SHELTERED, next(each for each in names if each in guard.shelters)
