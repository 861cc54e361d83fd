# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that run inside the lab's qubes: single files, Python's standard library only."""
