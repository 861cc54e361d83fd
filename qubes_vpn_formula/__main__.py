# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m qubes_vpn_formula``."""

import sys

from qubes_vpn_formula.cli import main

sys.exit(main())
