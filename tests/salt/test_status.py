# SPDX-License-Identifier: GPL-2.0-or-later
"""qubes_vpn.status, doctor, connect, disconnect and switch in dom0, by real salt-calls (R67, R68).

Qubes' answers are played; those of real ones: tests/lab/test_services.py.
"""

import json
import time

import pytest
from pillars import PILLARS

pytestmark = pytest.mark.one_salt
# The core is not installed beside Salt 3006.
qubes_vpn_told = pytest.importorskip("qubes_vpn_told", reason="needs the core installed")
SLS = "qubes.network.sys-vpn"
PILLAR = {**PILLARS["dns"], "tunnels": {"sys-vpn": {**PILLARS["dns"]["tunnels"]["sys-vpn"]}}}
PILLAR["tunnels"]["sys-vpn"]["profiles"] = ["wg-de.conf"]
UNITS = dict.fromkeys(qubes_vpn_told.UNITS, "active")
COMMON = {
    "version": "1",
    "forwarding": True,
    "custom_persist": False,
    "units": UNITS,
    "scripts": {"idle": 0, "dos": 0, "broken": 0},
}
COUNTERS = {"dropped": 17, "refused": 2}
VPN = {
    **COMMON,
    "role": "tunnel",
    "killswitch": {
        "state": "open",
        "in_template": True,
        "problems": 0,
        "drift": 0,
        "endpoints": 1,
        "log": False,
        "counters": COUNTERS,
    },
    "tunnel": {
        "kind": "wireguard",
        "state": "up",
        "interface": "wg0",
        "handshake": 41,
        "server": "192.0.2.1:51820",
        "sent": 1,
        "received": 1,
        "faults": [],
        "profiles": [
            {"id": qubes_vpn_told.profile_id("wg.conf"), "state": "up"},
            {"id": qubes_vpn_told.profile_id("wg-de.conf"), "state": "down"},
        ],
    },
    "mullvad": None,
    "dns": {"open": True, "resolvers": ["10.2.0.1"], "named": ["10.2.0.1"], "follows": True},
    "resolver": None,
}
DNS = {
    **COMMON,
    "role": "resolver",
    "killswitch": None,
    "tunnel": None,
    "mullvad": None,
    "dns": None,
    "resolver": {
        "state": "open",
        "problems": 0,
        "drift": 0,
        "answers": True,
        "causes": [],
        "own_names": True,
        "counters": {"dropped": 0, "refused": 0},
    },
}
DONE = {"version": "1", "done": True, "state": "up", "profile": None, "why": None}


class Qubes:
    """What the qubes answer: a file for each service of each; every call is written down."""

    def __init__(self, folder):
        self.folder = folder
        self.program = folder / "qrexec"
        self.program.write_text(
            f'#!/bin/sh\necho "$@" >>{folder}/log\n[ -e "{folder}/$1 $2" ] || exit 127\n'
            f'cat "{folder}/$1 $2"\n',
            encoding="utf-8",
        )
        self.program.chmod(0o755)

    def answer(self, name, service, what):
        data = what if isinstance(what, bytes) else json.dumps(what).encode()
        (self.folder / f"{name} qubes-vpn.{service}").write_bytes(data)

    def asked(self):
        log = self.folder / "log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """Before `salt_call`, which takes the environment as it is."""
    made = Qubes(tmp_path)
    monkeypatch.setenv("QUBES_VPN_QREXEC", str(made.program))
    return made


@pytest.fixture
def qubes(answers, embedded, salt_call):
    """A machine as the pillar says, whose VPN and resolver qubes run and are well."""
    made = answers
    assert salt_call("state.sls", SLS, pillar=PILLAR).returncode == 0
    embedded.call("sys-firewall", "admin.vm.Start")  # and with it all that is upstream
    for name in ("dom0", "fedora-42-xfce", "t-vpn", "t-dns"):
        now = time.strftime("%Y-%m-%d %H:%M:%S").encode()
        embedded.call(name, "admin.vm.feature.Set", "last-updates-check", now)
    made.answer("sys-vpn", "Status", VPN)
    made.answer("sys-dns", "Status", DNS)
    embedded.forget_calls()
    return made


def test_one_screen_of_a_machine_that_is_well(qubes, salt_call, embedded):
    done = salt_call("qubes_vpn.status")
    assert done.returncode == 0, done.data
    lines = done.data.splitlines()
    assert lines[0] == (
        "default-dvm, personal, untrusted, work -> sys-firewall -> sys-dns -> sys-vpn -> sys-net"
    )
    assert (
        "sys-vpn  up, wireguard, profile wg.conf, last handshake 41 seconds ago, exit by "
        "192.0.2.1:51820"
    ) in lines
    assert "  killswitch open, dropped 17, refused 2" in lines
    assert "  clients' DNS: 10.2.0.1" in lines
    assert "sys-dns  answers, rules open, dropped 0, refused 0" in lines
    assert lines[-3:] == [
        "Updates: templates by sys-net IN CLEAR; dom0 by sys-firewall",
        *("Drift from the pillar (0): none", "Problems (0): none"),
    ]
    assert len(lines) <= 24
    assert embedded.writes() == []
    assert salt_call("qubes_vpn.doctor").data == "Found: nothing."

    data = salt_call("qubes_vpn.status", "form=data").data
    assert data["tunnels"]["sys-vpn"]["told"]["tunnel"]["handshake"] == 41
    assert data["findings"] == 0


def test_faults_are_told_with_their_fixes(qubes, salt_call, embedded):
    qubes.answer(
        "sys-vpn", "Status", {**VPN, "killswitch": {**VPN["killswitch"], "state": "altered"}}
    )
    (qubes.folder / "sys-dns qubes-vpn.Status").unlink()
    embedded.call("work", "admin.vm.property.Set", "netvm", b"sys-net")
    embedded.forget_calls()
    done = salt_call("qubes_vpn.doctor")
    assert done.returncode == 1
    told = done.data
    for line in (
        "CRITICAL  D113  A qube hangs on another netvm than the pillar routes it to",
        "          work: Its netvm is sys-net, and should be sys-firewall",
        "CRITICAL  D202  A killswitch was altered",
        "HIGH      D103  A VPN or resolver qube gives no answer that can be used",
        "          sys-dns: has no service qubes-vpn.Status. Apply the formula to its template, "
        "and restart it",
    ):
        assert line in told, told
    assert "Found: 2 critical, 1 high." in told
    data = salt_call("qubes_vpn.doctor", "form=data").data
    assert {each["rule"] for each in data["findings"]} == {"D113", "D202", "D103"}

    done = salt_call("qubes_vpn.status")
    assert done.returncode == 1
    assert "Drift from the pillar (1): work -> sys-firewall" in done.data
    assert "Problems (3): sudo qubesctl qubes_vpn.doctor" in done.data
    assert embedded.writes() == []


#: What a qube may send.  Everything else that does not fit: tests/core/test_told.py.
HOSTILE = (
    b"\033]0;owned\007\033[2J",
    b"x" * 200_000,
    json.dumps({**VPN, "tunnel": {**VPN["tunnel"], "interface": "\033[31mwg"}}).encode(),
    json.dumps({**VPN, "tunnel": None}).encode(),
)


def test_a_hostile_qube_is_one_line_and_the_others_are_told(qubes, salt_call):
    for hostile in HOSTILE:
        qubes.answer("sys-vpn", "Status", hostile)
        done = salt_call("qubes_vpn.status")
        assert done.returncode == 1
        assert done.data.isascii()
        assert all(line.isprintable() for line in done.data.splitlines())
        assert "sys-vpn  not known" in done.data
        assert "sys-dns  answers" in done.data
        (why,) = [line for line in done.data.splitlines() if line.startswith("sys-vpn: ")]
        assert len(why) < 150


def test_nobody_is_started_to_be_asked(qubes, salt_call, embedded):
    embedded.call("sys-dns", "admin.vm.Kill")
    embedded.forget_calls()
    done = salt_call("qubes_vpn.status")
    assert "sys-dns  halted" in done.data
    assert embedded.writes() == []
    assert [line.split()[0] for line in qubes.asked()] == ["sys-vpn"]
    with_fault = salt_call("qubes_vpn.connect", "sys-dns")
    assert with_fault.returncode == 1
    assert "sys-dns is no tunnel of the pillar: sys-vpn" in with_fault.stderr


def test_connect_disconnect_and_switch(qubes, salt_call, embedded):
    qubes.answer("sys-vpn", "Connect", DONE)
    qubes.answer("sys-vpn", "Disconnect", {**DONE, "state": "down"})
    other = qubes_vpn_told.profile_id("wg-de.conf")
    qubes.answer("sys-vpn", f"Switch+{other}", {**DONE, "profile": other})
    assert salt_call("qubes_vpn.connect").data == "The tunnel of sys-vpn is up."
    assert salt_call("qubes_vpn.disconnect", "sys-vpn").data == (
        "The tunnel of sys-vpn is down; who is behind it is offline."
    )
    done = salt_call("qubes_vpn.switch", "sys-vpn", "wg-de.conf")
    assert done.data == "The tunnel of sys-vpn is up with wg-de.conf."
    assert [line.split()[1] for line in qubes.asked()] == [
        "qubes-vpn.Connect",
        "qubes-vpn.Disconnect",
        f"qubes-vpn.Switch+{other}",
    ]

    failed = salt_call("qubes_vpn.switch", "sys-vpn", "other.conf")
    assert failed.returncode == 1
    assert "other.conf is no profile of sys-vpn in the pillar, which has: wg.conf, wg-de.conf" in (
        failed.stderr
    )
    qubes.answer("sys-vpn", "Connect", {**DONE, "done": False, "state": "down", "why": "profile"})
    failed = salt_call("qubes_vpn.connect")
    assert failed.returncode == 1
    assert "sys-vpn: not done: its profile is missing or cannot be used. The tunnel is down." in (
        failed.stderr
    )
    assert embedded.writes() == []
    # R67: who did what, and nothing of what was not done.
    told = [line.partition("  ")[2] for line in salt_call("qubes_vpn.events").data.splitlines()]
    assert [each.partition(" by ")[0] for each in told[:2]] == [
        "sys-vpn: connected",
        "sys-vpn: disconnected",
    ]
    assert len(told) == 3
    assert told[2].startswith("sys-vpn: switched by ")
    assert told[2].endswith(" (profile wg-de.conf)")
