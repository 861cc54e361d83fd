# SPDX-License-Identifier: GPL-2.0-or-later
"""A Qubes for machines that are none: for tests, plans and the demo."""
