# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests that a user runs, with NetworkManager and the kernel's WireGuard (R60 to R63).

Where this machine's kernel has no WireGuard, `test_other_kernel.py` runs this under one that has.
"""

import pytest
from simple import URL, Simple, WireGuard
from test_verify_booted import LAST, NOT_ASKED, PASSED
from verifying import Verifying

from qubes_vpn_formula.lab.booted.machine import Booted
from qubes_vpn_formula.lab.qube import SLOWNESS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900 * SLOWNESS)]


@pytest.fixture(scope="module")
def dom0(lab: Booted, tmp_path_factory: pytest.TempPathFactory) -> Verifying:
    try_it = "ip link add wg-try type wireguard && ip link del wg-try"
    if lab.internet.run(try_it, check=False).returncode:
        pytest.skip("this kernel has no WireGuard: see test_other_kernel.py")
    machine = Simple(lab, tmp_path_factory.mktemp("simple"), WireGuard())
    return Verifying(machine, tmp_path_factory.mktemp("dom0"), URL)


def test_of_the_tunnel_every_test_passes(dom0):
    """Both families; what is destructive is not asked for."""
    found = dom0.salt("qubes.tests.sys-vpn")
    comments = {name: state["comment"] for name, state in found.states.items() if name != LAST}
    verdicts = {name: text.partition("\n")[0] for name, text in comments.items()}
    assert verdicts.pop("killswitch: sys-vpn") == NOT_ASKED
    assert set(verdicts.values()) == {PASSED}, found.text
    assert found.code == 0
    for address in ("10.64.1.2", "fd64:1::2"):
        assert f"work is seen as {address}, as sys-vpn is." in comments["exit: sys-vpn"]


def test_of_names_every_test_passes(dom0):
    found = dom0.salt("qubes.tests.sys-dns")
    assert (found.code, found.results()) == (0, {True}), found.text


def test_status_and_doctor(dom0):
    """R67, R68."""
    told = dom0.asked("status", "text")
    assert "sys-vpn  up, wireguard, profile one.conf, last handshake " in told
    assert ", exit by 198.51.100.1:51821\n" in told
    assert dom0.found() == set()
