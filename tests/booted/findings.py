# SPDX-License-Identifier: GPL-2.0-or-later
"""How NetworkManager 1.52, systemd and the lab itself were seen to behave, and what shows it.

Each is a scenario of the booted lab, in which the formula has to hold (`make lab-boot`).
"""

import pytest

FINDINGS = {
    "nmcli's import leaves inline certificates where an AppVM forgets them": [
        "test_tunnel.py::test_it_is_up_after_a_start_by_itself",
        "test_real_path.py::test_after_a_restart_the_tunnel_is_up_and_nothing_was_out_before",
    ],
    "autoconnect does nothing for a VPN, and the uplink's connection, which could bring it up by "
    "its secondaries, is written anew by Qubes at each start": [
        "test_real_path.py::test_after_a_restart_the_tunnel_is_up_and_nothing_was_out_before",
    ],
    "secondaries with vpn.persistent are stuck after the uplink's carrier was lost": [
        "test_tunnel.py::test_it_comes_back_with_its_uplink",
    ],
    "OpenVPN killed: NetworkManager never calls again, and the default route is the uplink's": [
        "test_tunnel.py::test_networkmanager_alone_leaves_it_down_and_nothing_is_in_clear",
        "test_tunnel.py::test_it_comes_back",
    ],
    "a VPN qube asks names on its uplink while the tunnel is down": [
        "test_tunnel.py::test_networkmanager_alone_leaves_it_down_and_nothing_is_in_clear",
        "test_dns_booted.py::test_dns_over_tls_and_the_qubes_own_plain_dns_go_nowhere",
    ],
    "a connection that is imported is activated at once": [
        "test_networkmanager.py::test_networkmanager_reads_what_is_meant",
        "test_tunnel.py::test_a_change_of_the_pillar_switches_and_a_dry_run_foretells_it",
    ],
    "qubes-firewall ran before qubes-iptables, and the user script's rules failed": [
        "test_boot_order.py::test_rules_for_qubes_chains_are_not_there_and_ours_are",
        "test_killswitch_booted.py::test_the_journal_tells_the_same_order",
    ],
    "the qube's own output does not wait for qubes-firewall": [
        "test_killswitch_booted.py::test_systemd_closes_the_qube_before_anything_of_its_network_starts",
        "test_killswitch_booted.py::test_without_its_unit_the_same_boot_leaks",
    ],
    "dnscrypt-proxy is ready, says systemd, while nothing answers": [
        "test_dns_booted.py::test_without_the_tunnel_there_are_no_names",
    ],
    "dnscrypt-proxy asks an upstream that was gone again after some ten seconds": [
        "test_dns_booted.py::test_a_dead_upstream_is_silence_and_is_named",
    ],
    "nft 1.1.3 is stricter than 1.0.6": [
        "test_killswitch_booted.py::test_real_salt_applies_the_killswitch",
    ],
    "mmdebstrap takes over the machine's host name": [
        "test_booted.py::test_qubes_agent_has_started_without_a_failure",
    ],
    "a network that is kept between two boots has old addresses": [
        "test_booted.py::test_a_restart_keeps_what_qubes_keeps",
    ],
    "an overlay's upper layer is the list of what was changed in a template": [
        "test_booted.py::test_a_template_says_what_was_written_in_it",
    ],
}
#: Where an emulated machine has to boot as well, which takes half an hour: `make lab`.
IN_THE_EMULATED_MACHINE = {
    "NetworkManager makes WireGuard by the kernel's alone, and is connected before any server has "
    "answered": [
        "test_other_kernel.py::test_networkmanager_with_the_kernels_wireguard",
        "test_wireguard_kernel.py::test_it_is_up_only_when_a_server_has_answered",
    ],
}
SHOWN = {name for names in FINDINGS.values() for name in names}


def name(item: pytest.Item) -> str:
    """As the table has it: without parameters."""
    return f"{item.path.name}::{item.name.partition('[')[0]}"
