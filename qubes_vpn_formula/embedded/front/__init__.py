# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes `import qubesadmin` mean the embedded Qubes, for a child process."""

import os
from collections.abc import Mapping
from pathlib import Path

#: the folder to put on PYTHONPATH
FOLDER = Path(__file__).resolve().parent


def environ(state: str | os.PathLike, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment `base`, with `qubesadmin` on the embedded Qubes of state file `state`."""
    path = [str(FOLDER), *filter(None, [base.get("PYTHONPATH")])]
    return {
        **base,
        "QUBES_VPN_EMBEDDED": os.fspath(state),
        "PYTHONPATH": os.pathsep.join(path),
    }
