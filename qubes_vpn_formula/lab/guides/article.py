# SPDX-License-Identifier: GPL-2.0-or-later
"""s2, the network verification article: one line of iptables."""

from qubes_vpn_formula.lab.guides.guide import USER_SCRIPT, Guide

_TYPED = """#!/bin/sh
sudo iptables -A OUTPUT ! -o tun0 -m conntrack --ctstate NEW -j DROP
"""

# The table, the chain and the rule that iptables-nft makes of that line.
_AS_NFT = """#!/bin/sh
nft -f - <<'END'
table ip filter {
	chain OUTPUT {
		type filter hook output priority filter; policy accept;
		oifname != "tun0" ct state new counter drop
	}
}
END
"""

_SOURCE = "s2, 'Networking & Security Command Cheat Sheet', row 'VPN Kill Switch'"

GUIDES = [
    Guide(
        "s2-iptables",
        "Article: the iptables line, as typed",
        _SOURCE,
        {USER_SCRIPT: (_TYPED, 0o755)},
        "Put into the user script, the kindest place for it: the article only says to add it. "
        "Qubes 4.2 and later have no iptables command in their templates, so it does nothing; in "
        "the lab neither.",
    ),
    Guide(
        "s2-nft",
        "Article: the iptables line where iptables-nft is installed",
        _SOURCE,
        {USER_SCRIPT: (_AS_NFT, 0o755)},
        "The line's effect in nft's words. As the article has it: own IPv4 only, new flows only, "
        "clients are not looked at, and the VPN's own first packet is dropped too.",
    ),
]
