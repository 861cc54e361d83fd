# SPDX-License-Identifier: GPL-2.0-or-later
"""s0, the Mullvad guide: the second of its layers, any one of which alone stops leaks, it says."""

from qubes_vpn_formula.lab.guides.guide import RC_LOCAL, USER_SCRIPT, Guide

_USER_SCRIPT = """#!/bin/bash
nft add rule qubes custom-forward oifname eth0 counter drop
nft add rule ip6 qubes custom-forward oifname eth0 counter drop
nft add rule ip qubes custom-forward tcp flags syn / syn,rst tcp option maxseg size set rt mtu
"""

_RC_LOCAL = """#!/bin/bash
/usr/local/bin/mullvad-dns.sh &
"""

_DNS = """#!/usr/bin/env bash
update_dns() {
mullvad_on=$([[ $(grep -vc 'nameserver[[:space:]]\\+10\\.139' /etc/resolv.conf) -gt 0 ]] && echo 1 || echo 0)
if [[ $mullvad_on -eq 1 ]]; then
mullvad_dns_ip=$(awk '/nameserver/ {print $2; exit}' /etc/resolv.conf)
sudo nft flush chain ip qubes dnat-dns
sudo nft add rule ip qubes dnat-dns meta l4proto { tcp, udp } ip daddr { 10.139.1.1, 10.139.1.2 } th dport 53 dnat to "$mullvad_dns_ip"
else
nameserver_ips=$(awk '/nameserver/ {print $2}' /etc/resolv.conf)
sudo nft flush chain ip qubes dnat-dns
for ip in $nameserver_ips; do
sudo nft add rule ip qubes dnat-dns ip daddr "$ip" udp dport 53 dnat to "$ip"
sudo nft add rule ip qubes dnat-dns ip daddr "$ip" tcp dport 53 dnat to "$ip"
done
fi
}
update_dns
inotifywait -m -q -e close_write /etc/resolv.conf | while read -r; do
update_dns
done
"""  # noqa: E501 -- the guide's lines as they are

_INOTIFYWAIT = """#!/bin/sh
# Stands in for inotifywait as the script uses it: a line for each change of the last argument.
for file; do :; done
old=$(cksum <"$file")
while sleep 0.1; do
    new=$(cksum <"$file")
    [ "$new" = "$old" ] || echo changed
    old=$new
done
"""

_SUDO = """#!/bin/sh
# Stands in for sudo: rc.local is root already.
exec "$@"
"""

GUIDES = [
    Guide(
        "s0-mullvad",
        "Mullvad guide: no forwarding to eth0",
        "s0, 'Step 3 - Configure Mullvad in the Template' (mullvad-dns.sh), 'Step 5 - Layer 2 Kill "
        "Switch', parts A (rc.local) and B (qubes-firewall-user-script)",
        {
            USER_SCRIPT: (_USER_SCRIPT, 0o755),
            RC_LOCAL: (_RC_LOCAL, 0o755),
            "/usr/local/bin/mullvad-dns.sh": (_DNS, 0o755),
            "/usr/local/bin/inotifywait": (_INOTIFYWAIT, 0o755),
            "/usr/local/bin/sudo": (_SUDO, 0o755),
        },
        "As the guide has it: the uplink must be called eth0, the qube's own traffic is not "
        "covered, the MSS clamp is for IPv4, the DNS script writes into a chain that Qubes "
        "rebuilds. Its comments are left out. Stand-ins: inotifywait and sudo. Not here: layer 1 "
        "(the Mullvad app's lockdown) and layer 3 (the list in sys-firewall).",
    ),
]
