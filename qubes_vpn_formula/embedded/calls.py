# SPDX-License-Identifier: GPL-2.0-or-later
"""The call log of an embedded Qubes: which Admin API calls were made, and which of them write.

One JSON line a call, in the order in which they were made, by whichever process made them. Payloads
are left out, because some of them are secret.
"""

import json
from pathlib import Path
from typing import NamedTuple


class Call(NamedTuple):
    """One Admin API call.

    write: it changes the machine, or may; setting what is set already counts too.
    outcome: `ok`, `empty`, an error class, or `killed before`, `killed in`, `killed after`.
    """

    dest: str
    method: str
    arg: str
    write: bool
    outcome: str


def append(path: Path, call: Call) -> None:
    """Adds one call to the log file `path`."""
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(call._asdict()) + "\n")


def read(path: Path) -> list[Call]:
    """All calls in the log file `path`, oldest first; none when there is no log yet."""
    try:
        with path.open(encoding="utf-8") as log:
            return [Call(**json.loads(line)) for line in log]
    except FileNotFoundError:
        return []
