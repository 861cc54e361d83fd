# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0's code on an embedded Qubes, one of whose qubes is one of the lab's."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qubes_vpn_formula.embedded import dom0
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.lab import qrexec
from qubes_vpn_formula.lab.qube import Inside


def asking(
    embedded: EmbeddedQubes, monkeypatch: pytest.MonkeyPatch, folder: Path, qube: Inside
) -> Callable[[], Any]:
    """Makes new connections of dom0's, for which `work` is this running qube."""
    monkeypatch.setenv("QUBES_VPN_EMBEDDED", "")  # what the next but one sets is taken back
    monkeypatch.setattr(sys, "path", sys.path)
    dom0.machine(embedded.path, dry=True)
    if b"Running" not in embedded.call("work", "admin.vm.CurrentState"):
        embedded.call("work", "admin.vm.Start")
    monkeypatch.setenv("QUBES_VPN_QREXEC", str(qrexec.client(folder, {"work": qube})))
    import qubes_vpn_qubesd

    return qubes_vpn_qubesd.connect
