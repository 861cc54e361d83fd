#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Loads the definitions with policy accept, and then calls nft once for each rule.
[ "$1" = load ] || exec "$0.real" "$@"
"$0.real" load
result=$?
all=$(nft list table inet qubes_vpn)
nft delete table netdev qubes_vpn
nft delete table inet qubes_vpn
printf '%s\n' "$all" | awk '
    /^\tchain / { chain = 1 }
    /^\t}/ { chain = 0 }
    chain && /^\t\t/ && !/^\t\ttype / { next }
    { sub("policy drop", "policy accept"); print }
' | nft -f -
printf '%s\n' "$all" | awk '
    /^\tchain / { chain = $2 }
    /^\t}/ { chain = "" }
    chain && /^\t\t/ && !/^\t\ttype / { sub(/^\t+/, ""); print chain " " $0 }
' | while read -r rule; do
    nft "add rule inet qubes_vpn $rule"
done
"$0.real" gate
exit "$result"
