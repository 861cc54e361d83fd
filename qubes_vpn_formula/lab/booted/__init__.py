# SPDX-License-Identifier: GPL-2.0-or-later
"""Really booted Debian 13 qubes, each with a systemd of its own: see :mod:`.machine`."""
