#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Gives each line of endpoints.txt to nft through a shell, whatever it is.
[ "$1" = load ] || exec "$0.real" "$@"
"$0.real" load
result=$?
head='^\([0-9./]*\):\([0-9-]*\)/\(udp\|tcp\)'
while read -r line; do
    element=$(printf '%s' "$line" | sed "s,$head,ranges4 { \1 . \3 . \2 ,")
    eval "nft \"add element inet qubes_vpn $element }\""
    rule=$(printf '%s' "$line" | sed "s,$head,to_endpoint ip daddr \1 \3 dport \2 accept ,")
    eval "nft \"insert rule inet qubes_vpn $rule\""
done </rw/config/vpn/endpoints.txt
exit "$result"
