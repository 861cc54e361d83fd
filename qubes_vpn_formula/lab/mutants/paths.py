# SPDX-License-Identifier: GPL-2.0-or-later
"""Where our killswitch has what in a VPN qube."""

from qubes_vpn_formula.lab.killswitches import Ours

LIBRARY = "/usr/lib/qubes-vpn"
CLOSED = f"{LIBRARY}/closed.nft"
COMMAND = f"{LIBRARY}/killswitch"
HOOK = "/etc/qubes/qubes-firewall.d/50-qubes-vpn"
MULLVAD = "/etc/systemd/system/mullvad-.service.d/50-qubes-vpn.conf"
NFTABLES = "/etc/systemd/system/nftables.service.d/50-qubes-vpn.conf"
EARLY, OPEN = Ours().units
(UDEV,) = Ours().udev_rules


def core(name: str) -> str:
    """The path of a module of the core."""
    return f"{LIBRARY}/qubes_vpn_{name}.py"
