# SPDX-License-Identifier: GPL-2.0-or-later
"""What has to work with the killswitch loaded: one that stops everything is no use (R41-R44)."""

from qubes_vpn_formula.lab import traffic
from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.cell import Cell
from qubes_vpn_formula.lab.machine import SERVER

section = Section("Service")

_PROGRAMS = ("wireguard", "openvpn-udp", "openvpn-tcp")


@section.attack("W01", "a server is reached through the tunnel", "WORK", fast=True)
def reached(cell: Cell) -> None:
    """From a client and from the VPN qube, over TCP, UDP and ICMP, IPv4 and IPv6."""
    for program in _PROGRAMS:
        cell.start(tunnel=program)
        _reached(cell, cell.phase(program))
        if cell.failures:
            return


def _reached(cell: Cell, marker: bytes) -> None:
    for family in (4, 6):
        with traffic.Echo(cell.lab.internet, SERVER[family], 80):
            for qube in (cell.client, cell.vpn):
                done = traffic.works(qube, SERVER[family], 80, marker)
                for protocol, exchange in done.items():
                    cell.require(
                        not exchange.loss,
                        f"{qube.name}, IPv{family}, {protocol}: "
                        f"{exchange.received} of {exchange.sent} messages were answered",
                    )
                ping = qube.run(["ping", "-c1", "-W1", "-n", SERVER[family]], check=False)
                cell.require(not ping.returncode, f"{qube.name}, IPv{family}: no answer to a ping")
