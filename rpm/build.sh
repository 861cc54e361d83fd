#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: rpm/build.sh BUNDLE FOLDER
# Builds the package for dom0 from the file that `qubes-vpn bundle` made without a pillar, and puts it into FOLDER. The time in it
# is that of the checkout's last commit, or SOURCE_DATE_EPOCH.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd) bundle=$1 folder=$2
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git -C "$here" log -1 --format=%ct) || {
        echo "There is no git checkout here to take the time from: set SOURCE_DATE_EPOCH." >&2
        exit 2
    }
    # The release says which commit is in the package: it may say so of that commit alone.
    changed=$(git -C "$here/.." status --porcelain -- LICENSE pillar.example '_*' docs dom0 qubes_vpn_formula rpm salt)
    [ -z "$changed" ] || {
        printf '%s\n' "$changed" "These are not as in the last commit: commit them, or set SOURCE_DATE_EPOCH." >&2
        exit 2
    }
fi
export SOURCE_DATE_EPOCH

top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
mkdir "$top/SOURCES"
cp "$bundle" "$top/SOURCES/qubes-vpn.tar"
rpmbuild --quiet --define "_topdir $top" -bb "$here/qubes-vpn-formula.spec"
mkdir -p "$folder"
mv "$top"/RPMS/noarch/*.rpm "$folder"
