# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash disable=SC2034,SC2154
# Read by vif-route-qubes: the few of Xen's hotplug functions and variables that it uses.
command=$1
ip=$(xenstore-read "$XENBUS_PATH/ip")

log() {
    echo "vif: $*" >&2
}

fatal() {
    log error "$@"
    exit 1
}

success() {
    log debug "$vif is connected"
}

do_without_error() {
    "$@" 2>/dev/null || log debug "failed, and that is no error: $*"
}
