# SPDX-License-Identifier: GPL-2.0-or-later
"""The one exception for what a user can put right, and reading a file that a user named."""

from qubes_vpn_error import UserError, read_bytes, read_text

__all__ = ["UserError", "read_bytes", "read_text"]
