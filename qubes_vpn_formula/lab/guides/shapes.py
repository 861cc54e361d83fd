# SPDX-License-Identifier: GPL-2.0-or-later
"""Two shapes that public killswitches for Qubes have, in words of our own; no project's code."""

from qubes_vpn_formula.lab.guides.guide import USER_SCRIPT, Guide

_BY_GROUP = """#!/bin/sh
for family in ip ip6; do
    nft add rule $family qubes custom-forward oifgroup 1 counter drop
    nft add rule $family qubes custom-forward iifgroup 1 counter drop
done
"""

_OWN_TABLE = """#!/bin/sh
nft -f - <<'END'
add table inet vpn
delete table inet vpn
table inet vpn {
	chain forward {
		type filter hook forward priority filter - 1; policy drop;
		ct state established,related accept
		iifname "vif*" oifname "tun0" accept
	}
	chain output {
		type filter hook output priority filter - 1; policy drop;
		oifname { "lo", "tun0" } accept
		oifname "vif*" ct state established,related accept
	}
}
END
while read -r address protocol port; do
    nft add rule inet vpn output ip daddr "$address" "$protocol" dport "$port" accept
done </rw/config/vpn/endpoints.txt
"""

GUIDES = [
    Guide(
        "public-by-group",
        "Public shape: no forwarding over group 1",
        "Common in public guides for Qubes 4.2: the uplink by its group, both directions, in "
        "Qubes' custom-forward",
        {USER_SCRIPT: (_BY_GROUP, 0o755)},
        "Better than a name, and covers IPv6; the qube's own traffic is not covered, and the "
        "chain is one that other scripts flush.",
    ),
    Guide(
        "public-own-table",
        "Public shape: a table of its own from the user script",
        "Common in the better public projects: an inet table with policy drop for forwarded and "
        "own traffic, endpoints as rules",
        {USER_SCRIPT: (_OWN_TABLE, 0o755)},
        "Established traffic first, loaded when qubes-firewall starts, deleted and made anew at "
        "each load, one call of nft for each endpoint, no gate on the device.",
        endpoint="{server} {protocol} {port}",
    ),
]
