#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# usage: tools/venv.sh FOLDER REQUIREMENTS SALT-SERIES
# Makes a virtual environment with pinned packages and Salt. Uses uv where it can be had (seconds), else pip (a minute or two).
set -eu

venv=$1 requirements=$2 series=$3
python=$(tools/python.sh)

case $series in
    3006) salt=3006.28 ;; # the long-term release
    # What dom0 runs. On Python 3.13 it finds no SLS unless patched as Qubes does; 3007.15 needs no patch.
    3007) salt=$("$python" -c 'import sys; print("3007.13" if sys.version_info < (3, 13) else "3007.15")') ;;
    *) echo "Unknown Salt series: $series" >&2; exit 2 ;;
esac

"$python" -m venv --clear "$venv"
if "$venv/bin/python" -m pip install -qq --disable-pip-version-check uv==0.13.9; then
    install() { "$venv/bin/uv" pip install --quiet --compile-bytecode --python "$venv" "$@"; }
else
    echo "uv cannot be had here; pip does it, more slowly." >&2
    install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
fi
install --requirement "$requirements"
# Salt's own lists ask for packages that current setuptools cannot build; requirements/salt.txt has what it needs.
install --no-deps --no-build-isolation "salt==$salt"
