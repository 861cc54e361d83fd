# SPDX-License-Identifier: GPL-2.0-or-later
"""The real client, where its sources are at hand."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_client():
    """The checkout of the real client, by QUBES_SRC."""
    sources = os.environ.get("QUBES_SRC")
    if not sources:
        pytest.skip("QUBES_SRC does not name a folder with a checkout of qubes-core-admin-client")
    for name in ("qubes-core-admin-client", "core-admin-client"):
        if (Path(sources) / name / "qubesadmin").is_dir():
            return Path(sources) / name
    pytest.skip(f"QUBES_SRC={sources} holds no checkout of qubes-core-admin-client")
    return None


@pytest.fixture(scope="session")
def real_release(real_client):
    """The release that the checkout belongs to; later ones count as 4.3."""
    version = (real_client / "version").read_text(encoding="utf-8")
    return "4.2" if version.startswith("4.2.") else "4.3"
