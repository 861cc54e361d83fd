# SPDX-License-Identifier: GPL-2.0-or-later
"""`topology: vpn-over-tor` on booted qubes: OpenVPN over TCP behind a stand-in for Tor (R88).

With a real Tor, and by who sees what, in tests/lab/test_topologies.py; here are qubes that boot.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import tor
from whole import ELSEWHERE, MARKER, Whole, came_out, killed, restarted, tunnel, well

from qubes_vpn_formula.lab.booted.machine import Booted, Template
from qubes_vpn_formula.lab.capture import Captured
from qubes_vpn_formula.lab.oracle import Endpoint, Oracle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

VPN, GATEWAY, BETWEEN = "sys-vpn", "sys-whonix", "sys-firewall-tor"
#: One that Qubes installs, in place of Whonix'.
TEMPLATE = "fedora-42-minimal"
SERVER = ("198.51.100.1", 1194)
DOCUMENT = {
    "topology": "vpn-over-tor",
    "tunnels": {VPN: tunnel(1, endpoints=[f"{SERVER[0]}:{SERVER[1]}/tcp"])},
    "resolvers": {},
    "routes": {"qubes": {"work": VPN, "personal": VPN}},
}
#: The rules are there before the qube forwards.
UNIT = """[Unit]
After=qubes-iptables.service
Before=qubes-network.service
[Service]
ExecStartPre=nft -f /usr/lib/tor-stand-in/rules
ExecStart=python3 /usr/lib/tor-stand-in/tor.py gateway
Restart=always
[Install]
WantedBy=multi-user.target
"""
BREAKS = {
    "Tor is killed": lambda machine: machine.qubes[GATEWAY].run("systemctl kill -s KILL tor"),
    "the tunnel is killed": killed(VPN),
    "the gateway is killed and started": restarted(GATEWAY),
    "the firewall between is killed and started": restarted(BETWEEN),
    "the VPN qube is killed and started": restarted(VPN),
}


def whonix(lab: Booted) -> Template:
    made, here = lab.template("t-whonix"), Path(tor.__file__).parent
    for name in ("tor.py", "check_server.py"):
        made.write(f"/usr/lib/tor-stand-in/{name}", (here / name).read_text())
    made.write("/usr/lib/tor-stand-in/rules", tor.RULES)
    made.write("/etc/systemd/system/tor.service", UNIT)
    made.run("systemctl enable tor")
    made.stop()
    return made


@pytest.fixture(scope="module")
def machine(new_lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with new_lab() as lab, ExitStack() as stack:
        folder, templates = tmp_path_factory.mktemp("vpn-over-tor"), {TEMPLATE: whonix(lab)}
        made = Whole(lab, stack, folder, DOCUMENT, templates)
        lab.internet.popen(["python3", tor.__file__, "exit"])
        made.call("dom0", "admin.vm.Create.AppVM", TEMPLATE, f"name={GATEWAY} label=black")
        made.call(GATEWAY, "admin.vm.property.Set", "provides_network", "True")
        made.make(DOCUMENT, {VPN: 1})
        yield made


def closed(found: dict[str, Captured]) -> None:
    """The line has Tor's packets alone; a marker in them was in no tunnel."""
    verdict = Oracle([Endpoint("tcp", *tor.RELAY)], MARKER).judge(found["line"])
    assert str(verdict) == "closed"
    assert verdict.frames > 10


def test_the_line_sees_tor_and_the_vpns_server_the_exit_of_it(machine):
    with machine.recorded("well") as found, machine.talking(*machine.clients):
        machine.well()
    closed(found)
    for name in machine.clients:
        assert came_out(found["exit1"], name) == {ELSEWHERE, machine.provider.resolver(1)}
    words = ["ss", "-Htn", "state", "established", f"src {SERVER[0]} and sport = {SERVER[1]}"]
    (line,) = machine.lab.internet.run(words).stdout.splitlines()
    assert line.split()[3].startswith(f"{tor.TOR}:")


@pytest.mark.parametrize("what", BREAKS)
def test_what_breaks_lets_nothing_out_and_comes_back_by_itself(machine, what):
    """R34, R62, R88."""
    closed(machine.broken(what, BREAKS[what]))


def test_a_second_run_and_a_dry_one_are_silent(machine):
    """R69: dom0 and the VPN qube."""
    for words in ((), ("test=True",)):
        runs = {"dom0": machine.dom0(DOCUMENT, *words)}
        runs |= machine.targets(VPN, test=bool(words))
        well(runs)
        assert {name: run.changed() for name, run in runs.items() if run.changed()} == {}


def test_without_the_gateways_rules_it_would_be_seen(machine):
    """R90: the gateway forwards, as any netvm does, and the line has the VPN's own packets."""
    machine.qubes[GATEWAY].run("systemctl stop tor; nft delete table ip whonix")
    with machine.recorded("mutant") as found:
        killed(VPN)(machine)
        machine.well()
    assert f"to {SERVER[0]}:{SERVER[1]}" in str(
        Oracle([Endpoint("tcp", *tor.RELAY)], MARKER).judge(found["line"])
    )
