# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks by clients, and on clients (R41, R64)."""

from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.cell import Cell

section = Section("Clients")


@section.attack("C01", "client to the endpoint in clear", "OUT", fast=True)
def to_the_endpoint(cell: Cell) -> None:
    """The endpoint's exact protocol, address and port, routed over the uplink, as it must be."""
    cell.start()
    cell.vpn.run(["ip", "route", "replace", cell.tunnel.server, "via", *_next_hop(cell)])
    cell.route_to_uplink()
    marker = cell.phase("client to the endpoint")
    cell.send(cell.client, senders.udp(cell.tunnel.server, cell.tunnel.port, marker, count=3))


def _next_hop(cell: Cell) -> list[str]:
    return [cell.vpn.qubesdb["/qubes-gateway"], "dev", "eth0", "onlink"]
