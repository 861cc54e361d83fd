#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# First process of a qube: gives it a root file system of its own, says "ready", and stays until its standard input closes.
# That happens when the lab lets it go and also when the lab dies; the kernel then ends everything else in the qube.
# Usage, in new net, mount, uts and pid namespaces:  holder.sh NAME
set -eu

# The mounts are this namespace's alone; /run is a folder that every machine has and that the qube gets anew anyway.
mount -t tmpfs -o mode=0755 qube /run
mkdir /run/root /run/upper /run/work
cd /run/root
mkdir proc sys run rw old

for path in /*; do
    entry=${path#/}
    if [ -L "$path" ]; then
        cp -P "$path" .
        continue
    fi
    [ -d "$path" ] || continue
    case $entry in
    proc | sys | run | rw | old | lost+found) ;;
    etc | usr | var)
        mkdir "$entry" "/run/upper/$entry" "/run/work/$entry"
        mount -t overlay -o "lowerdir=/$entry,upperdir=/run/upper/$entry,workdir=/run/work/$entry" qube "$entry"
        ;;
    *)
        mkdir "$entry"
        mount --rbind "/$entry" "$entry"
        ;;
    esac
done

mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs -o mode=0755 run run
mount -t tmpfs -o mode=0755 rw rw
# A tmpfs cannot be the old and the new root's mount at once.
mount --rbind /run/root /run/root
cd /run/root
pivot_root . old
umount -l /old
rmdir /old
cd /

hostname "$1"
mkdir -p /run/lock /run/qubes /run/qubes-service /rw/config
rm -f /etc/resolv.conf
: >/etc/resolv.conf

# Qubes' own settings, and nothing inherited from the machine below.
cd /proc/sys/net
for interface in all default lo; do
    echo 0 >"ipv6/conf/$interface/accept_dad"
    echo 0 >"ipv6/conf/$interface/accept_ra"
    echo 0 >"ipv6/conf/$interface/autoconf"
    echo 0 >"ipv6/conf/$interface/disable_ipv6"
    echo 0 >"ipv4/conf/$interface/accept_redirects"
    echo 0 >"ipv4/conf/$interface/send_redirects"
done
echo 0 >ipv4/conf/all/rp_filter
echo 2 >ipv4/conf/default/rp_filter
echo 0 >ipv4/ip_forward
echo 0 >ipv6/conf/all/forwarding
cd /
ip link set lo up

echo ready
# Not the shell's `read`, which ends when an orphan in the qube ends, and the qube with it.
# With the signal ignored, orphans leave nothing behind.
exec env --ignore-signal=CHLD cat >/dev/null
