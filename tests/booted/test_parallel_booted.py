# SPDX-License-Identifier: GPL-2.0-or-later
"""`topology: parallel` on booted qubes: one client past the VPN on purpose, and no other (R05)."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from whole import ELSEWHERE, ENDPOINTS, MARKER, Whole, came_out, killed, restarted, tunnel

from qubes_vpn_formula.lab.capture import Captured
from qubes_vpn_formula.lab.oracle import Oracle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

VPN, PAST = "sys-vpn", "sys-firewall-novpn"
BEHIND = ("work", "personal")
DOCUMENT = {
    "topology": "parallel",
    "tunnels": {VPN: tunnel(1)},
    "routes": {"qubes": {**dict.fromkeys(BEHIND, "sys-firewall"), "untrusted": PAST}},
    "outside_vpn": ["untrusted"],
}
BREAKS = {
    "the tunnel is killed": killed(VPN),
    "the VPN qube is killed and started": restarted(VPN),
    "the firewall of the clients is killed and started": restarted("sys-firewall"),
    "the firewall past the VPN is killed and started": restarted(PAST),
}


@pytest.fixture(scope="module")
def machine(new_lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with new_lab() as lab, ExitStack() as stack:
        made = Whole(lab, stack, tmp_path_factory.mktemp("parallel"), DOCUMENT)
        made.make(DOCUMENT, {VPN: 1}, "sys-dns")
        yield made


def only_that_one(found: dict[str, Captured]) -> None:
    """Beside the tunnel's packets the line has that client's alone, and the tunnel none of them."""
    words = (MARKER + b"untrusted", b"untrusted-")
    oracle = Oracle([ENDPOINTS[1]], MARKER)
    line = [frame for frame in found["line"].frames if not any(one in frame.data for one in words)]
    assert str(oracle.judge(Captured(tuple(line), found["line"].trouble))) == "closed"
    assert came_out(found["line"], "untrusted") >= {ELSEWHERE}
    assert came_out(found["exit1"], "untrusted") == set()


def test_one_is_in_clear_and_the_others_are_in_the_tunnel(machine):
    with machine.recorded("well") as found, machine.talking(*machine.clients):
        machine.well()
    only_that_one(found)
    assert {came for name in BEHIND for came in came_out(found["exit1"], name)} == {ELSEWHERE}


@pytest.mark.parametrize("what", BREAKS)
def test_when_something_breaks_nobody_else_is_in_clear(machine, what):
    """R34, R62: and all comes back by itself."""
    only_that_one(machine.broken(what, BREAKS[what]))


def test_without_the_killswitch_the_others_would_be_seen(machine):
    """R90."""
    vpn = machine.qubes[VPN]
    vpn.run("nft delete table inet qubes_vpn; nft delete table netdev qubes_vpn")
    machine.qubes["sys-net"].run("nft delete table ip qubes-firewall")
    with machine.recorded("mutant") as found, machine.talking(*BEHIND):
        vpn.run("systemctl stop NetworkManager")
        vpn.run(f"ip route replace default via {vpn.qubesdb['/qubes-gateway']} dev eth0 onlink")
        time.sleep(3)
    assert {came for name in BEHIND for came in came_out(found["line"], name)} == {ELSEWHERE}
