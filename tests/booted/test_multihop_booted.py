# SPDX-License-Identifier: GPL-2.0-or-later
"""`topology: multihop` on booted qubes: a tunnel in a tunnel, seen from outside, and broken (R88).

Who sees what is in tests/lab/test_topologies.py for every topology; here is what only qubes that
boot can show: NetworkManager and systemd bring each part back, and meanwhile nothing gets out.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tunnelled import openvpn
from whole import ELSEWHERE, ENDPOINTS, Whole, came_out, killed, leaks, restarted, tunnel, well

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ENTRY, EXIT = "sys-entry", "sys-vpn"
#: By which server; the one at the uplink first.
TUNNELS = {ENTRY: 2, EXIT: 1}
SERVERS = [endpoint.addresses for endpoint in ENDPOINTS.values()]
DOCUMENT = {
    "topology": "multihop",
    "tunnels": {EXIT: tunnel(1), ENTRY: tunnel(2, upstream="sys-net")},
    "routes": {"qubes": {"work": "sys-firewall", "personal": "sys-firewall"}},
}


@pytest.fixture(scope="module")
def machine(new_lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with new_lab() as lab, ExitStack() as stack:
        made = Whole(lab, stack, tmp_path_factory.mktemp("multihop"), DOCUMENT)
        made.make(DOCUMENT, TUNNELS, "sys-dns")
        yield made


def closed(found: dict[str, Any]) -> None:
    """The line has the entry's packets alone, and the entry's provider the exit's."""
    seen = {"line": leaks(found["line"], 2), "entry": leaks(found["exit2"], 1, inside=2)}
    assert seen == {"line": [], "entry": []}


def test_dom0_has_put_them_in_a_row(machine):
    netvms = {name: qube.netvm and qube.netvm.name for name, qube in machine.qubes.items()}
    assert netvms == {
        "sys-net": None,
        ENTRY: "sys-net",
        EXIT: ENTRY,
        "sys-dns": EXIT,
        "sys-firewall": "sys-dns",
    }


def test_each_place_sees_its_own_part_alone(machine):
    """R62: the line, the entry's provider, the exit's; names come by the inner tunnel."""
    there = {EXIT: machine.uplink(EXIT)}
    with machine.recorded("well", **there) as found, machine.talking("work", "personal"):
        machine.well()
    closed(found)
    assert leaks(found[EXIT], 1) == []
    for client in ("work", "personal"):
        assert came_out(found["exit1"], client) == {ELSEWHERE}


def both(*words: str) -> Callable[[Whole], None]:
    """A command in each VPN qube."""

    def run(machine: Whole) -> None:
        for name in TUNNELS:
            machine.qubes[name].run([*words], timeout=60)

    return run


#: What breaks, and whose OpenVPN is another one afterwards.
BREAKS = {
    "the inner tunnel is killed": (killed(EXIT), {EXIT}),
    "the outer tunnel is killed": (killed(ENTRY), {ENTRY}),
    "the entry is killed and started": (restarted(ENTRY), {ENTRY, EXIT}),
    "the exit is killed and started": (restarted(EXIT), {EXIT}),
    "each killswitch is loaded again": (both("/usr/lib/qubes-vpn/killswitch", "load"), set()),
    "each qubes-firewall is restarted": (both("systemctl", "restart", "qubes-firewall"), set()),
    "each NetworkManager is restarted": (
        both("systemctl", "restart", "NetworkManager"),
        {ENTRY, EXIT},
    ),
}


@pytest.mark.parametrize("what", BREAKS)
def test_what_breaks_lets_nothing_out_and_comes_back_by_itself(machine, what):
    """R34, R62: clients talk all the time, and so do the exit qube's own programs."""
    do, again = BREAKS[what]
    before = {name: openvpn(machine.qubes[name]) for name in TUNNELS}
    found = machine.broken(what, do)
    closed(found)
    assert ELSEWHERE in came_out(found["exit1"], "work")
    now = {name: openvpn(machine.qubes[name]) for name in TUNNELS}
    assert {name for name in TUNNELS if now[name] != before[name]} == again


def test_a_second_run_and_a_dry_one_are_silent(machine):
    """R69: dom0 and each qube."""
    names = (*TUNNELS, "sys-dns")
    for words in ((), ("test=True",)):
        before = len(machine.qubesd.calls())
        runs = {"dom0": machine.dom0(DOCUMENT, *words)}
        runs |= machine.targets(*names, test=bool(words))
        well(runs)
        assert {name: run.changed() for name, run in runs.items() if run.changed()} == {}
        assert not [call for call in machine.qubesd.calls()[before:] if call.write]


def test_without_its_killswitch_the_entry_is_held_by_the_next_qube_and_then_by_nobody(machine):
    """R90: the recordings above would have told; what tells is the exit's server at the line."""
    entry = machine.qubes[ENTRY]
    entry.run("nft delete table inet qubes_vpn; nft delete table netdev qubes_vpn")
    for left in (True, False):
        if not left:
            machine.qubes["sys-net"].run("nft delete table ip qubes-firewall")
        entry.run(["systemctl", "stop", "NetworkManager"])
        with machine.recorded(f"mutant-{left}") as found, machine.talking("work"):
            entry.run(f"kill -KILL {openvpn(entry)} || :; ip route replace default"
                      f" via {entry.qubesdb['/qubes-gateway']} dev eth0 onlink")  # fmt: skip
            time.sleep(8)
        seen = [leak for leak in leaks(found["line"], 2) if f"to {SERVERS[0]}:" in leak]
        assert bool(seen) is not left
