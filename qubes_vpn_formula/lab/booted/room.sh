#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# First process of the booted lab: folders and control groups that nobody else sees, says "ready", and stays until its
# standard input closes.  That happens when the lab lets it go and also when the lab dies; the kernel then ends every
# qube and takes all mounts away.
# Usage, in new mount and pid namespaces with their own /proc:  room.sh GROUP
set -eu

mount -t tmpfs -o mode=0755 lab /run
mkdir /run/layers /run/volumes /run/qubesdb /run/disks

# systemd in the qubes wants version 2, which a machine with both has elsewhere.
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 lab /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$1"

echo ready
# Not the shell's `read`: see holder.sh.
exec env --ignore-signal=CHLD cat >/dev/null
