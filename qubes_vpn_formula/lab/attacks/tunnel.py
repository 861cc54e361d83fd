# SPDX-License-Identifier: GPL-2.0-or-later
"""Attacks on the tunnel: it goes down, vanishes, is replaced (R41, R62)."""

from qubes_vpn_formula.lab.attacks import Section
from qubes_vpn_formula.lab.cell import Cell

section = Section("Tunnel")


@section.attack("T01", "set down, the default route moves to the uplink", "OUT", fast=True)
def set_down(cell: Cell) -> None:
    """With a standing flow of the client's in it."""
    cell.start()
    cell.standing_flow()
    cell.tunnel_down()
    cell.salvo("all", "tunnel down")
