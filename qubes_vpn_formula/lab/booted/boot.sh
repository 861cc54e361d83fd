#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Boots a qube.  Says "ready" when its network namespace is there, to be given its cables, and boots at the first line
# on standard input.  All its mounts end with it.
# Usage, in the lab's room, with new net, mount and uts namespaces:  boot.sh NAME LOWER UPPER GROUP [NSPAWN'S OPTIONS]
#   LOWER  the layers that stay as they are, as overlayfs wants them
#   UPPER  a folder for what is written, or nothing: it is forgotten
set -eu

name=$1 lower=$2 upper=$3 group=$4
shift 4

if [ -z "$upper" ]; then
    mount -t tmpfs -o mode=0755 forgotten /run/disks
    upper=/run/disks/upper
    mkdir "$upper"
fi
mkdir -p "$upper.work" "/run/disks/root" "/sys/fs/cgroup/$group/$name"
mount -t overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$upper.work" "$name" /run/disks/root
echo $$ >"/sys/fs/cgroup/$group/$name/cgroup.procs"

# Qubes' own settings, and nothing inherited from the machine below: see holder.sh.
for interface in all default lo; do
    echo 0 >"/proc/sys/net/ipv6/conf/$interface/accept_dad"
    echo 0 >"/proc/sys/net/ipv6/conf/$interface/accept_ra"
    echo 0 >"/proc/sys/net/ipv6/conf/$interface/autoconf"
done
echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter
echo 2 >/proc/sys/net/ipv4/conf/default/rp_filter
echo 0 >/proc/sys/net/ipv4/ip_forward
echo 0 >/proc/sys/net/ipv6/conf/all/forwarding
ip link set lo up

echo ready
read -r _
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_LOCK=0 SYSTEMD_NSPAWN_API_VFS_WRITABLE=network
exec systemd-nspawn --quiet --boot --directory=/run/disks/root --machine="$name" --register=no --keep-unit \
    --network-namespace-path=/proc/self/ns/net --capability=CAP_NET_ADMIN --resolv-conf=off --timezone=off \
    --link-journal=no --console=pipe --uuid="$(cat /run/disks/root/etc/machine-id)" "$@" </dev/null >/dev/null
