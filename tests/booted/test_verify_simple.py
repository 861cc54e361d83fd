# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests that a user runs where no resolver qube is, and both families are in the tunnel.

By OpenVPN, and by the stand-in for the Mullvad app, whose tunnel the app itself takes down and
brings up (R60 to R64).
"""

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tor
from simple import URL, App, OpenVPN, Simple
from test_verify_booted import ASKED, FAILED, LAST, NOT_RUN, PASSED, VPN, others
from tunnelled import said
from verifying import NETWORK, Verifying

from qubes_vpn_formula.lab.booted.machine import AppVM
from qubes_vpn_formula.lab.qube import Inside

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXITS = {OpenVPN: "198.51.100.1:1194", App: "198.51.100.1:51820"}
BOTH = ("ICMP from 192.0.2.53", "ICMP from 2001:db8::53", "TCP from 2001:db8::30")


@pytest.fixture(scope="module", params=EXITS)
def dom0(
    new_lab: Any, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Verifying]:
    with new_lab() as lab:
        machine = Simple(lab, tmp_path_factory.mktemp("simple"), request.param())
        yield Verifying(machine, tmp_path_factory.mktemp("dom0"), URL)


def test_on_a_machine_that_is_well_every_test_passes(dom0):
    """Both families; with the tunnel down neither gets out, and it is up again."""
    found = dom0.salt("qubes.tests.sys-vpn", ASKED)
    assert found.code == 0, found.text
    comments = {name: state["comment"] for name, state in found.states.items()}
    assert tuple(comments) == (*VPN, LAST)
    assert {text.partition("\n")[0] for name, text in comments.items() if name != LAST} == {PASSED}
    for address in ("10.64.1.", "fd64:1::"):
        assert f"work is seen as {address}" in comments["exit: sys-vpn"]
    assert all(what in comments["killswitch: sys-vpn"] for what in BOTH)
    assert "by IPv4 and IPv6 nothing is seen" in comments["clear: sys-vpn"]
    dom0.machine.resolves()
    found = dom0.salt("qubes.tests.sys-dns")
    assert (found.code, found.results()) == (0, {True}), found.text
    told = found.states["capture: sys-vpn"]["comment"]
    assert "What work asks 192.0.2.53 (udp) is answered, though nobody is there." in told
    assert "sys-vpn's tunnel names no resolver of IPv6." in told


def test_status_names_the_server(dom0):
    """R67, of each kind of tunnel."""
    assert f"exit by {EXITS[type(dom0.machine.kind)]}\n" in dom0.asked("status", "text")


def _load(dom0: Verifying) -> None:
    dom0.machine.vpn.run(["/usr/lib/qubes-vpn/killswitch", "load"])
    dom0.machine.kind.up(dom0.machine.vpn)
    dom0.machine.resolves()


def test_ipv6_past_the_tunnel_is_found(dom0):
    """IPv4 stays in the tunnel all the time."""
    vpn = dom0.machine.vpn
    vpn.run("nft delete table inet qubes_vpn; nft delete table netdev qubes_vpn")
    by = f"via {vpn.qubesdb['/qubes-gateway6']} dev eth0"
    vpn.run(f"ip -6 route add table 99 default {by} && ip -6 rule add pref 9 table 99")
    try:
        verdicts = dom0.verdicts("sys-vpn")
        of_names = dom0.verdicts("sys-dns")
    finally:
        vpn.run("ip -6 rule del pref 9; ip -6 route flush table 99")
        _load(dom0)
    assert verdicts.pop(LAST)
    assert of_names["capture: sys-vpn"] == of_names["names-in-clear: sys-vpn"] == FAILED
    names = ("up", "exit", "uplink", "clear")
    assert others(verdicts) == dict.fromkeys((f"{name}: sys-vpn" for name in names), FAILED)


@pytest.mark.parametrize("dom0", [App], indirect=True)
def test_a_run_that_is_killed_leaves_a_tunnel_that_comes_back(dom0):
    """By the VPN qube's own timer; closed meanwhile."""
    vpn = dom0.machine.vpn
    run = dom0.process("qubes.tests.sys-vpn", ASKED)
    until = time.monotonic() + 120
    while vpn.run("ip link show type tun", check=False).stdout:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < until
        time.sleep(0.2)
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=90)
    assert said(vpn)["killswitch"] == "open"
    assert "qubes-vpn-test.timer" in vpn.run("systemctl list-timers").stdout
    until = time.monotonic() + 150
    while not vpn.run("ip link show type tun", check=False).stdout:
        assert time.monotonic() < until
        time.sleep(1)
    dom0.machine.kind.up(vpn)
    dom0.machine.resolves()


_ENABLED = "/etc/systemd/system/multi-user.target.wants/mullvad-daemon.service"
_DEVICE = "/etc/mullvad-vpn/device.json"
#: What happens to the app, what undoes it, and what the doctor finds of it by the qube's service.
APP = {
    "local addresses are blocked": ("mullvad lan set block", "mullvad lan set allow", "D324"),
    "lockdown is off": ("mullvad lockdown-mode set off", "mullvad lockdown-mode set on", "D325"),
    "it does not connect": ("mullvad auto-connect set off", "mullvad auto-connect set on", "D323"),
    "it is disconnected": ("mullvad disconnect", "mullvad connect", "D328"),
    "it is logged out": (
        f"cp -p {_DEVICE} /run; mullvad account logout",
        f"cp -p /run/device.json {_DEVICE}",
        "D326",
    ),
    "its device was revoked": (
        f"cp -p {_DEVICE} /run; echo '\"revoked\"' >{_DEVICE}",
        f"cp -p /run/device.json {_DEVICE}",
        "D327",
    ),
    "its daemon is off": (
        "systemctl stop mullvad-daemon",
        "systemctl start mullvad-daemon",
        "D321",
    ),
    "its daemon does not start": (
        f"mv {_ENABLED} /run",
        f"mv /run/mullvad-daemon.service {_ENABLED}",
        "D322",
    ),
}


@pytest.mark.parametrize("dom0", [App], indirect=True)
def test_the_doctor_finds_what_is_wrong_with_the_app(dom0):
    """R68."""
    vpn = dom0.machine.vpn
    assert dom0.found() == set()
    for name, (plant, remove, found) in APP.items():
        vpn.run(plant)
        try:
            assert (name, dom0.found()) == (name, {found})
        finally:
            vpn.run(remove)
            dom0.machine.kind.up(vpn)
            dom0.machine.resolves()
    assert dom0.found() == set()


# --- Tor


class Tor(NamedTuple):
    """A gateway that runs the stand-in for Tor, and a client of it, which dom0 knows."""

    gateway: AppVM
    client: Inside


@pytest.fixture(scope="module")
def whonix(dom0: Verifying) -> Tor:
    machine, here = dom0.machine, Path(tor.__file__).parent
    lab = machine.lab
    gateway = lab.appvm("sys-whonix", machine.net.template, machine.vpn)
    gateway.start()
    for name in ("tor.py", "check_server.py"):
        gateway.write(f"/run/tor/{name}", (here / name).read_text())
    lab.internet.popen([sys.executable, tor.__file__, "exit"])
    client = lab.client("anon-whonix", netvm=gateway)
    for name, netvm, more in (
        ("sys-whonix", "sys-vpn", {"provides_network": "True"}),
        ("anon-whonix", "sys-whonix", {}),
    ):
        dom0.call("dom0", "admin.vm.Create.AppVM", "", f"name={name} label=black")
        for key, value in {**more, "netvm": netvm}.items():
            dom0.call(name, "admin.vm.property.Set", key, value)
    dom0.pillar["whonix"] = "behind_vpn"
    check = {"url": "http://203.0.113.81/api/ip", "address": "IP", "provider": "IsTor"}
    dom0.pillar["tests"]["checks"]["sys-whonix"] = check
    dom0.runs("sys-whonix", gateway)
    applied = dom0.salt(NETWORK)
    assert applied.results() <= {True}, applied.text
    return Tor(gateway, client)


def _tor(dom0: Verifying) -> str:
    return dict(dom0.told("sys-vpn"))["tor: sys-whonix"]


@pytest.mark.parametrize("dom0", [OpenVPN], indirect=True)
def test_tor(dom0, whonix):
    """R64: over Tor it passes; without a client, without Tor and past it, it does not."""
    gateway = whonix.gateway
    assert _tor(dom0).startswith(f"{NOT_RUN}\nNOT RUN: No qube that runs has sys-whonix")
    dom0.runs("anon-whonix", whonix.client)
    gateway.run("nft -f -", input=tor.RULES)
    told = _tor(dom0)
    assert told == f"{NOT_RUN}\nNOT RUN: anon-whonix could not ask."
    gateway.run("systemd-run --quiet --unit=tor python3 /run/tor/tor.py gateway")
    time.sleep(1)
    assert _tor(dom0) == f"{PASSED}\nanon-whonix is seen as {tor.TOR}, an exit of Tor."
    # The gateway forwards, as any netvm does.
    gateway.run("nft delete table ip whonix; nft delete table ip6 whonix")
    assert ", as sys-vpn is." in _tor(dom0)
    assert _tor(dom0).startswith(FAILED)
