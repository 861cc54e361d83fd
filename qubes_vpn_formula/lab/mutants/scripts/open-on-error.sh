#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Opens what it could not load, so that the network works.
"$0.real" "$@" && exit
if [ "$1" = load ]; then
    nft delete table netdev qubes_vpn
    nft delete table inet qubes_vpn
    ip link set dev eth0 up
fi
exit 1
