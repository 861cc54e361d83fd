# SPDX-License-Identifier: GPL-2.0-or-later
"""s1, the sys-vpn notes: they describe the killswitch in words and fragments, never as a file."""

from qubes_vpn_formula.lab.guides.guide import USER_SCRIPT, Guide

_PATTERN = """#!/bin/sh
nft add set ip qubes endpoints '{ type ipv4_addr ; }'
while read -r ip; do
    nft add element ip qubes endpoints "{ $ip }"
done < /rw/config/vpn/endpoints.txt

nft add rule ip qubes custom-output oif "lo" accept
nft add rule ip qubes custom-output ip daddr @endpoints accept
nft add rule ip qubes custom-output oif "tun0" accept
nft add rule ip qubes custom-output drop

nft add rule ip qubes custom-forward ip daddr @endpoints accept
nft add rule ip qubes custom-forward oif "tun0" accept
nft add rule ip qubes custom-forward drop
"""

_QUICK_FIX = """#!/bin/sh
nft add rule ip qubes custom-forward oif "tun0" accept
nft add rule ip qubes custom-forward drop
"""

GUIDES = [
    Guide(
        "s1-pattern",
        "sys-vpn notes: endpoints and tun0, then drop",
        's1, "What\'s off in our current design" item 5 (the three lines of the minimal pattern); '
        "'How to provide your endpoint IPs' and 'Why these choices' (numeric addresses one a line, "
        "custom-output and custom-forward, a set of endpoints); '6. Killswitch'",
        {USER_SCRIPT: (_PATTERN, 0o755)},
        "The script is a reading of ours, with nothing in it that the text does not name. As the "
        "text has it: custom-output does not exist in Qubes, so those four lines fail; oif of a "
        "tun0 that is not there yet fails too, and the script goes on; the final drop takes the "
        "replies; endpoints are open to clients as well; IPv4 only; an endpoint is an "
        "address with every port.",
        endpoint="{server}",
    ),
    Guide(
        "s1-quick-fix",
        "sys-vpn notes: the quick fix for leaks",
        "s1, 'Common bugs & quick fixes', 'VPN connects but traffic still leaks outside tun0': "
        '`oif "tun0" accept` and a final `drop` in the user script',
        {USER_SCRIPT: (_QUICK_FIX, 0o755)},
        "In custom-forward, because the text names no chain and custom-output does not exist. "
        "Before tun0 is there only the drop is loaded, and replies never reach clients.",
    ),
]
