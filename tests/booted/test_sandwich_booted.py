# SPDX-License-Identifier: GPL-2.0-or-later
"""`topology: sandwich` on booted qubes: a firewall on both sides of a tunnel (R04, R11)."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from whole import ELSEWHERE, MARKER, Whole, came_out, killed, leaks, restarted, tunnel, well

from qubes_vpn_formula.lab import packets, salvo
from qubes_vpn_formula.lab.packets import decode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

VPN, INNER, OUTER = "sys-vpn", "sys-firewall", "sys-firewall-uplink"
NOT_ALLOWED = "203.0.113.78"
DOCUMENT = {
    "topology": "sandwich",
    "tunnels": {VPN: tunnel(1)},
    "routes": {"qubes": {"work": INNER, "personal": INNER}},
    "allowlists": {"personal": [f"{ELSEWHERE}:443/udp", "dns"]},
}
BREAKS = {
    "the firewall at the uplink is killed and started": restarted(OUTER),
    "the firewall of the clients is killed and started": restarted(INNER),
    "the tunnel is killed": killed(VPN),
    "the VPN qube is killed and started": restarted(VPN),
}


@pytest.fixture(scope="module")
def machine(new_lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with new_lab() as lab, ExitStack() as stack:
        made = Whole(lab, stack, tmp_path_factory.mktemp("sandwich"), DOCUMENT)
        made.make(DOCUMENT, {VPN: 1}, "sys-dns")
        yield made


def allowed(found: dict[str, Any]) -> None:
    """Of the client that has a list, what is in it, and of nobody anything past the tunnel."""
    assert leaks(found["line"], 1) == []
    out = found["exit1"].marked(MARKER + b"personal")
    seen = {decode(frame.data).protocol for frame in out}
    assert (seen, came_out(found["exit1"], "personal")) == ({packets.UDP}, {ELSEWHERE})


def test_the_list_is_held_inside_of_the_tunnel_and_nothing_is_outside_of_it(machine):
    """The other client gets everywhere: so the recording would tell."""
    with machine.recorded("well") as found:
        for name, qube in machine.clients.items():
            jobs = salvo.salvo([ELSEWHERE, NOT_ALLOWED], MARKER + name.encode())
            salvo.fire(qube, jobs)
        machine.well()
    allowed(found)
    assert came_out(found["exit1"], "work") == {ELSEWHERE, NOT_ALLOWED}


@pytest.mark.parametrize("what", BREAKS)
def test_what_breaks_lets_nothing_out_and_comes_back_by_itself(machine, what):
    """R34, R62: and with its list."""
    allowed(machine.broken(what, BREAKS[what]))


def test_a_second_run_and_a_dry_one_are_silent(machine):
    """R69: dom0 and each qube."""
    for words in ((), ("test=True",)):
        runs = {"dom0": machine.dom0(DOCUMENT, *words)}
        runs |= machine.targets(VPN, "sys-dns", test=bool(words))
        well(runs)
        assert {name: run.changed() for name, run in runs.items() if run.changed()} == {}


def test_without_the_killswitch_the_firewall_at_the_uplink_holds_the_vpn_qube(machine):
    """R04: and without its list nobody does (R90)."""
    vpn = machine.qubes[VPN]
    vpn.run("nft delete table inet qubes_vpn; nft delete table netdev qubes_vpn")
    vpn.run("systemctl stop NetworkManager; systemctl stop qubes-vpn-watch")
    vpn.run(f"ip route replace default via {vpn.qubesdb['/qubes-gateway']} dev eth0 onlink")
    for held in (True, False):
        if not held:
            machine.call(VPN, "admin.vm.firewall.Set", payload="action=accept\n")
        with machine.recorded(f"held-{held}") as found:
            salvo.fire(vpn.network, salvo.salvo([ELSEWHERE], MARKER))
        assert bool(found["line"].marked(MARKER)) is not held
