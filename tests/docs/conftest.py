# SPDX-License-Identifier: GPL-2.0-or-later
"""What fills in the documentation is beside it, and not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs"))
