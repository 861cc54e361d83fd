#!/usr/bin/busybox sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The first process of a virtual machine that has the files of the machine that it runs on: modules, mounts, and then
# `start` from the folder that both share.  All else that is written stays in memory.
set -ex
busybox mount -t proc proc /proc
busybox --install -s /usr/bin
export PATH=/usr/bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*.ko; do
    insmod "$module" || :
done
read -r shared </where
options=trans=virtio,version=9p2000.L,msize=512000
mkdir -p /machine /lower /upper
mount -t 9p -o "$options,ro,cache=loose" machine /lower
mount -t tmpfs -o size=80% upper /upper
mkdir /upper/upper /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/upper,workdir=/upper/work overlay /machine
mount -t 9p -o "$options" shared "/machine$shared"
for folder in proc sys dev; do
    mount --move "/$folder" "/machine/$folder"
done
exec switch_root /machine "$shared/start"
