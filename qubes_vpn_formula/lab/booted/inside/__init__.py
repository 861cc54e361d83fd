# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs in a booted qube: the standard library and the lab's restated agent, nothing else."""
