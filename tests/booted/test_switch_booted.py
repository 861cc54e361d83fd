# SPDX-License-Identifier: GPL-2.0-or-later
"""From `dns` to `multihop` and back on booted qubes, while their clients run and talk (R88, R92).

Every order of writes, for each pair of topologies, is in tests/order/test_switching.py; here are
packets.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tunnelled import put_profiles, up
from whole import ELSEWHERE, PROFILES, Whole, came_out, leaks, tunnel, well

from qubes_vpn_formula.lab.capture import Captured
from qubes_vpn_formula.lab.packets import decode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ENTRY, EXIT = "sys-entry", "sys-vpn"
CLIENTS = ("work", "personal")
#: A server goes on for some seconds, and Qubes' agent forgets flows just before the cable goes, so
#: that one may be there again: sys-net then sends the server's own packets back to the line.
SENT_BACK = re.compile(
    r"UDP from 198\.51\.100\.1:1194 to 10\.137\.\S+ \d+ bytes: not to an endpoint$"
)
ROUTES = {"routes": {"qubes": dict.fromkeys(CLIENTS, "sys-firewall")}}
DNS = {"topology": "dns", "tunnels": {EXIT: tunnel(1)}, **ROUTES}
MULTIHOP = {
    "topology": "multihop",
    "tunnels": {EXIT: tunnel(1), ENTRY: tunnel(2, upstream="sys-net")},
    **ROUTES,
}


@pytest.fixture(scope="module")
def machine(new_lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with new_lab() as lab, ExitStack() as stack:
        made = Whole(lab, stack, tmp_path_factory.mktemp("switch"), DNS)
        made.make(DNS, {EXIT: 1}, "sys-dns")
        yield made


def at_the_line(captured: Captured, number: int) -> list[float]:
    """When packets went by to this server.  Seconds since 1970."""
    server = f"to 198.51.100.{number}:"
    return [frame.time for frame in captured.frames if server in str(decode(frame.data))]


def closed(found: dict[str, Captured]) -> None:
    """The line has tunnels alone, the entry's provider the exit's; a client's way out is one."""
    line = [leak for leak in leaks(found["line"], 1, 2) if not SENT_BACK.search(leak)]
    assert {"line": line, "entry": leaks(found["exit2"], 1, inside=2)} == {"line": [], "entry": []}
    for client in CLIENTS:
        assert came_out(found["exit1"], client) == {ELSEWHERE}


def test_to_multihop_nothing_is_in_clear_and_the_exit_loses_sight_of_the_line(machine):
    with machine.recorded("there") as found, machine.talking(*CLIENTS):
        well({"dom0": machine.dom0(MULTIHOP)})
        machine.start(ENTRY)
        put_profiles(machine.qubes[ENTRY], machine.provider)
        well(machine.targets(ENTRY))
        for name, number in ((ENTRY, 2), (EXIT, 1)):
            up(machine.qubes[name], PROFILES[number], 90)
        for client in CLIENTS:
            machine.resolves(client)
    closed(found)
    away = next(move for move in reversed(machine.moves) if move.qube == EXIT)
    assert away.netvm == ENTRY
    direct = at_the_line(found["line"], 1)
    assert direct
    assert max(direct) <= away.ended


def test_and_back(machine):
    with machine.recorded("back") as found, machine.talking(*CLIENTS):
        well({"dom0": machine.dom0(DNS)})
        up(machine.qubes[EXIT], PROFILES[1], 90)
        for client in CLIENTS:
            machine.resolves(client)
    closed(found)
    back = next(move for move in reversed(machine.moves) if move.qube == EXIT)
    assert back.netvm == "sys-net"
    assert min(at_the_line(found["line"], 1)) >= back.begun


def test_a_second_run_is_silent(machine):
    """R69: in dom0 and in the exit."""
    runs = {"dom0": machine.dom0(DNS), **machine.targets(EXIT)}
    well(runs)
    assert {name: run.changed() for name, run in runs.items() if run.changed()} == {}
