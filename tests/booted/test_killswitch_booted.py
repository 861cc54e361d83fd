# SPDX-License-Identifier: GPL-2.0-or-later
"""The killswitch, put by Salt into a template and a VPN qube that boot (R41, R45, R90).

Real systemd starts it, real NetworkManager comes after it, and what leaves the qube is recorded
from before its first process on.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import talker

from qubes_vpn_formula.lab.booted.machine import UPLINK, AppVM, Booted, Template
from qubes_vpn_formula.lab.booted.salt import Applied, Salt
from qubes_vpn_formula.lab.capture import Capture, Captured
from qubes_vpn_formula.lab.oracle import Endpoint, Oracle
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.senders import udp
from qubes_vpn_formula.lab.traffic import send

_ENDPOINT = ("198.51.100.1", 51821)
_ELSEWHERE = "198.51.100.7"
_MARKER = b"leak-of-the-booted"
_PILLAR = {
    "tunnels": {
        "sys-vpn": {
            "kind": "wireguard",
            "template": "t-vpn",
            "profile": "wg0.conf",
            "endpoints": [f"{_ENDPOINT[0]}:{_ENDPOINT[1]}/udp"],
        }
    }
}
#: Somebody in the qube who talks from the first moment of its boot on, and does not stop.
_TALKER = """[Unit]
DefaultDependencies=no
[Service]
Restart=always
RestartSec=0
ExecStart=/usr/bin/python3 /usr/lib/talker
"""
_TALKS = talker.program(_MARKER, _ELSEWHERE)
_CLOSED, _OPEN = "qubes-vpn-closed.service", "qubes-vpn-open.service"
#: Which states are the killswitch's, by their IDs.
_KILLSWITCHS = re.compile(
    r": killswitch$|/(killswitch|closed\.nft|50-qubes-vpn|qubes-vpn-(closed|open))"
)


class Machine(NamedTuple):
    """In the template and in the qube, what Salt said; the qube has been started again since."""

    lab: Booted
    template: Template
    qube: AppVM
    client: Qube
    applied: dict[str, Applied]
    boots: dict[str, Captured]


@pytest.fixture(scope="module")
def machine(lab: Booted, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("salt")
    salt = Salt(folder / "master")
    template = lab.template("t-vpn")
    template.install(["network-manager", "network-manager-openvpn", "openvpn"])
    template.write("/usr/lib/talker", _TALKS)
    template.write("/etc/systemd/system/talker.service", _TALKER)
    template.run("systemctl add-wants sysinit.target talker.service")
    applied = {"template": salt.apply(template, _PILLAR)}
    template.stop()
    qube = lab.appvm("sys-vpn", template, services=["qubes-vpn", "network-manager"])
    client = lab.client("work", netvm=qube)
    boots = {"first": _boot(qube, folder / "first.pcap")}
    applied["qube"] = salt.apply(qube, _PILLAR)
    qube.stop()
    boots["configured"] = _boot(qube, folder / "configured.pcap")
    return Machine(lab, template, qube, client, applied, boots)


def _boot(qube: AppVM, file: Path) -> Captured:
    """All that leaves a qube from before its first process on, to the end of its boot."""
    captures: list[Capture] = []

    def watch() -> None:
        captures.append(Capture(qube.network, qube.lab.internet, qube.vif, file, proven=False))

    qube.start(plugged=watch)
    return captures[0].finish()


def _talked(qube: AppVM) -> bool:
    """Whether somebody tried to get out, all the time."""
    return qube.run("systemctl is-active talker", check=False).stdout == "active\n"


def _leaks(captured: Captured) -> str:
    verdict = Oracle([Endpoint("udp", *_ENDPOINT)], _MARKER).judge(captured)
    assert not verdict.trouble
    return str(verdict)


def _sent(machine: Machine, file: Path, do: Callable[[], Any]) -> Captured:
    qube = machine.qube
    with Capture(qube.network, machine.lab.internet, qube.vif, file) as capture:
        do()
        return capture.finish()


def _state(qube: AppVM) -> str:
    done = qube.run("/usr/lib/qubes-vpn/killswitch status", check=False)
    return done.stdout.splitlines()[0]


@pytest.mark.parametrize("where", ["template", "qube"])
def test_real_salt_applies_the_killswitch(machine, where):
    """Other parts of the SLS have tests of their own."""
    applied = machine.applied[where]
    ours = {name: state for name, state in applied.states.items() if _KILLSWITCHS.search(name)}
    assert ours, applied.text
    assert {name for name, state in ours.items() if state["result"] is not True} == set()


def test_the_template_has_the_killswitch_and_nothing_of_the_qube(machine):
    changed = machine.template.changed()
    assert {"/usr/lib/qubes-vpn/closed.nft", f"/etc/systemd/system/{_CLOSED}"} <= changed
    assert not {path for path in changed if path.startswith("/rw/") or "endpoints.txt" in path}


def test_a_qube_that_is_not_configured_boots_closed(machine):
    """R41, R45: recorded from before its first process."""
    assert _leaks(machine.boots["first"]) == "closed"


def test_a_configured_qube_boots_without_a_leak_and_opens_for_its_endpoint(machine, tmp_path):
    assert _leaks(machine.boots["configured"]) == "closed"
    assert _talked(machine.qube)
    assert not {_CLOSED, _OPEN} & set(machine.qube.failed())
    assert _state(machine.qube) == "state: open"

    def to_both() -> None:
        send(machine.qube.network, udp(*_ENDPOINT, b"to the endpoint"))
        send(machine.qube.network, udp(_ELSEWHERE, _ENDPOINT[1], _MARKER))

    captured = _sent(machine, tmp_path / "own.pcap", to_both)
    assert _leaks(captured) == "closed"
    assert len(captured.marked(b"to the endpoint")) == 1


def test_a_client_gets_nowhere_without_the_tunnel(machine, tmp_path):
    def from_client() -> None:
        for to in (_ENDPOINT, (_ELSEWHERE, 443)):
            send(machine.client, udp(*to, _MARKER))

    assert _leaks(_sent(machine, tmp_path / "client.pcap", from_client)) == "closed"


def test_systemd_closes_the_qube_before_anything_of_its_network_starts(machine):
    """As it was at this boot: when each unit began, and when the killswitch was done."""
    closed = _when(machine.qube, _CLOSED, "ActiveEnterTimestampMonotonic")
    for unit in (
        "NetworkManager.service",
        "qubes-firewall.service",
        "qubes-network.service",
        "xendriverdomain.service",
        f"qubes-network-uplink@{UPLINK}.service",
    ):
        assert closed < _when(machine.qube, unit, "InactiveExitTimestampMonotonic"), unit
    opened = _when(machine.qube, _OPEN, "ActiveEnterTimestampMonotonic")
    assert opened < _when(machine.qube, "NetworkManager.service", "InactiveExitTimestampMonotonic")


def test_the_journal_tells_the_same_order(machine):
    lines = machine.qube.journal("--output=cat", "_PID=1").splitlines()
    begun = {line: place for place, line in reversed(list(enumerate(lines)))}

    def place(words: str) -> int:
        return next(begun[line] for line in begun if line.startswith(words))

    closed = place(f"Finished {_CLOSED}")
    assert closed < place("Starting NetworkManager.service")
    assert closed < place("Starting qubes-firewall.service")
    assert closed < place("Starting qubes-network-uplink@")
    assert place("Finished qubes-iptables") < place("Starting qubes-firewall.service")


def test_without_its_unit_the_same_boot_leaks(machine, tmp_path):
    """The mutant: it shows that the boots above would have been seen to leak."""
    machine.qube.stop()
    machine.template.run(
        f"find /etc/systemd/system -name {_CLOSED} -delete; rm /etc/qubes/qubes-firewall.d/*vpn;"
        " rm -f /etc/systemd/system/*/qubes-vpn-open.service; systemctl daemon-reload"
    )
    captured = _boot(machine.qube, tmp_path / "mutant.pcap")
    assert captured.marked(_MARKER)


def _when(qube: AppVM, unit: str, what: str) -> int:
    """Microseconds since the machine started; only of units that were started."""
    shown = qube.run(["systemctl", "show", "--value", f"--property={what}", unit]).stdout
    assert int(shown) > 0, f"{unit} was not started"
    return int(shown)
