#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Closes before it loads.
if [ "$1" = load ]; then
    "$0.real" close
    sleep 0.2
fi
exec "$0.real" "$@"
