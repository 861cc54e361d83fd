# SPDX-License-Identifier: GPL-2.0-or-later
"""The generator and command line `qubes-vpn`."""

import sys
from importlib.util import find_spec
from pathlib import Path

__version__ = "0.1.0"

# The core is imported by its plain names, as Salt does it. An installed package has them beside
# this one; a checkout has them in `_utils`.
if find_spec("qubes_vpn_check") is None:
    sys.path.append(str(Path(__file__).resolve().parent.parent / "_utils"))
