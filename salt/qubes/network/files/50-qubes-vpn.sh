#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Run by qubes.SuspendPostAll: after a sleep the other side may have forgotten the tunnel, so it is made anew.
[ ! -e /run/qubes-service/qubes-vpn ] || systemctl --no-block kill --kill-whom=main --signal=HUP qubes-vpn-watch.service
