# SPDX-License-Identifier: GPL-2.0-or-later
"""The profiles that the generator is tested with, and the made-up secrets in them."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
PROFILES = TESTS / "profiles"
BAD = TESTS / "bad" / "profiles"

_KEY = re.compile(r"^\s*(?:private|preshared)key\s*=\s*(\S+)", re.IGNORECASE | re.MULTILINE)
_BLOCK = re.compile(r"<(key|tls-auth|tls-crypt|auth-user-pass)>\s*\n(.*?)(?:</\1>|\Z)", re.DOTALL)


def secrets_of(path: Path) -> list[str]:
    """Every secret in the profile *path*: keys, and each line of a secret block."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    lines = [line.strip() for _, body in _BLOCK.findall(text) for line in body.splitlines()]
    return [
        *_KEY.findall(text),
        *(line for line in lines if line and not line.startswith(("-----", "#"))),
        *re.findall(r"hunter2\w*", text),
    ]
