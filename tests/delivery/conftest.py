# SPDX-License-Identifier: GPL-2.0-or-later
"""Bundles, and a dom0 to install them in."""

from pathlib import Path

import pytest
from delivery_dom0 import DeliveryDom0

from qubes_vpn_formula import bundle
from qubes_vpn_formula.pillarfile import PillarFile

PILLAR = """\
qubes_vpn:
  topology: simple
  tunnels:
    sys-vpn: {kind: wireguard, profile: wg-se.conf, endpoints: ["203.0.113.68:51820/udp"]}
  # Write what for.
  routes: {qubes: {work: sys-vpn}}
"""


@pytest.fixture
def pillar() -> PillarFile:
    made = PillarFile("pillar.sls", PILLAR)
    assert made.problems() == []
    return made


@pytest.fixture
def made(tmp_path: Path, pillar: PillarFile) -> Path:
    """A bundle with a pillar."""
    bundle.build(tmp_path / "qubes-vpn.tar", pillar)
    return tmp_path / "qubes-vpn.tar"


@pytest.fixture
def dom0(tmp_path: Path) -> DeliveryDom0:
    return DeliveryDom0(tmp_path / "dom0")
