#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Deletes the tables before it loads them.
if [ "$1" = load ]; then
    nft delete table netdev qubes_vpn
    nft delete table inet qubes_vpn
    sleep 0.05
fi
exec "$0.real" "$@"
