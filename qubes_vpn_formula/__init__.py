# SPDX-License-Identifier: GPL-2.0-or-later
"""The generator and command line `qubes-vpn`."""

__version__ = "0.1.0"
