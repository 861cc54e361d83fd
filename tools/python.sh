#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Prints a Python that Salt and the tests can use: 3.11 first, because dom0 of Qubes 4.2 has it and 4.3's Salt runs on it.
# $PYTHON wins over the search. A name on PATH counts only if it starts (version managers leave dead ones).
set -eu

for python in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        "$python" -c 'import sys; print(sys.executable)'
        exit 0
    fi
    tried="${tried:+$tried, }$python"
done
echo "No Python 3.11 or later found (tried $tried). Install python3.11, or run: make PYTHON=/path/to/python3.11" >&2
exit 1
