# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the formula's own files are."""

from pathlib import Path


def formula_root() -> Path:
    """The folder that holds `salt/`, `_modules/`, `_states/`, `_utils/` and `pillar.example`.

    In an installed wheel that is the package's folder `formula`; an editable install has none and
    uses the checkout.

    Raises FileNotFoundError when neither is complete.
    """
    package = Path(__file__).resolve().parent
    for root in (package / "formula", package.parent):
        if (root / "pillar.example").is_file() and (root / "_utils").is_dir():
            return root
    raise FileNotFoundError(
        f"The formula's files are missing beside {package}: install the package again."
    )
