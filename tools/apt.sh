#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: tools/apt.sh [lab [emulator] | rpm]
# Installs the Debian packages that are missing: as root with apt-get, else it says which.
# With `rpm` also what builds the package for dom0; with `lab` those of the lab, which only root can run; for others there is nothing to install then.
set -eu

missing=
need() { # need PACKAGE COMMAND...: PACKAGE is missing when COMMAND fails
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}

need git git --version
# Without any suitable Python the distribution's own is worth a try; tools/venv.sh says so if it is too old.
need python3-venv "$(tools/python.sh 2>/dev/null || echo python3)" -c 'import ensurepip'

[ "${1:-}" != rpm ] || need rpm rpmbuild --version

if [ "${1:-}" = lab ] && [ "$(id -u)" -eq 0 ]; then
    need conntrack conntrack --version
    need createrepo-c createrepo_c --version
    need dnf dnf --version
    need fonts-dejavu-core test -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf
    need gnupg gpg --version
    need iproute2 ip -V
    need iperf3 iperf3 --version
    need iputils-ping ping -V
    need mmdebstrap mmdebstrap --version
    need nftables nft --version
    need openssl openssl version
    need openvpn sh -c 'command -v openvpn'
    need rpm rpmbuild --version
    need socat socat -V
    need systemd-container systemd-nspawn --version
    need tcpdump tcpdump --version
    need util-linux unshare --version
    need wireguard-go sh -c 'command -v wireguard-go'
    need wireguard-tools wg --version
    [ "${2:-}" != emulator ] || need qemu-system-x86 qemu-system-x86_64 --version
fi

[ -n "$missing" ] || exit 0
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    # Word splitting is meant: one word a package.
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing
else
    echo "Missing packages:$missing" >&2
    echo "Install them (Debian: sudo apt-get install$missing) and run make again." >&2
    exit 1
fi
