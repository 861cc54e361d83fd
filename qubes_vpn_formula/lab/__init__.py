# SPDX-License-Identifier: GPL-2.0-or-later
"""Qubes as network namespaces, with real packets, so that a killswitch can be attacked."""
