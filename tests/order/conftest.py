# SPDX-License-Identifier: GPL-2.0-or-later
"""The embedded Qubes' front as `qubesadmin`, in this process."""

import sys

from qubes_vpn_formula.embedded import front

sys.path.insert(0, str(front.FOLDER))
