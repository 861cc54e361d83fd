# SPDX-License-Identifier: GPL-2.0-or-later
"""What only the generator reads: the relay lists of providers."""
