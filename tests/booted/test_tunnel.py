# SPDX-License-Identifier: GPL-2.0-or-later
"""The tunnel in a booted VPN qube: real NetworkManager, real OpenVPN, real servers (R32 to R35).

Not here: NetworkManager with WireGuard needs the kernel's WireGuard, which the lab's kernel lacks.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from provider import PASSWORD, USER, Provider

from qubes_vpn_formula.lab import tunnelfiles
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.qube import Qube

PROGRAM = "/usr/lib/qubes-vpn/tunnel"
CREDENTIALS = "/rw/config/vpn/credentials"
PACKAGES = [
    "network-manager",
    "network-manager-openvpn",
    "conntrack",
    "dbus",
    "nftables",
    "python3",
]
CONF = "kind = openvpn\ninterface = tun0\nprofile = one.ovpn\nfurther = two.ovpn\n"


@pytest.fixture(scope="module")
def provider(lab: Booted, tmp_path_factory: pytest.TempPathFactory) -> Provider:
    made = Provider(tmp_path_factory.mktemp("provider"), lab.internet)
    for number in (1, 2):
        made.serve(number)
    return made


@pytest.fixture(scope="module")
def booted(lab: Booted, provider: Provider) -> AppVM:
    """A VPN qube whose template has all that the formula puts there, and its profiles in /rw."""
    template = lab.template("t-vpn")
    template.install(["--no-install-recommends", *PACKAGES])
    for path, (text, mode) in (Ours().files() | tunnelfiles.files()).items():
        template.write(path, text, mode)
    units = (*Ours().units, *tunnelfiles.UNITS)
    template.run(["systemctl", "enable", *(unit.rpartition("/")[2] for unit in units)])
    template.stop()
    qube = lab.appvm("sys-vpn", template, services=["qubes-vpn", "network-manager"])
    qube.start()
    qube.write("/rw/config/vpn/endpoints.txt", "198.51.100.1:1194/udp\n198.51.100.2:1194/udp\n")
    qube.write("/rw/config/vpn/killswitch.conf", "interface = tun0\nlog = no\n")
    qube.write("/rw/config/vpn/tunnel.conf", CONF)
    qube.run(["install", "-d", "-m700", CREDENTIALS])
    for number, name in enumerate(("one", "two"), 1):
        qube.write(f"{CREDENTIALS}/{name}.ovpn", provider.profile(number), 0o600)
        qube.write(f"{CREDENTIALS}/{name}.auth", f"{USER}\n{PASSWORD}\n", 0o600)
    qube.stop()
    qube.start()
    return qube


@pytest.fixture
def qube(booted: AppVM) -> AppVM:
    """With the pillar's tunnel up, whatever the test before left."""
    if not booted.running:
        booted.start()
    status = said(booted)
    if (status["state"], status["profile"]) != ("up", "one.ovpn"):
        booted.run([PROGRAM, "up"], timeout=80)
    up(booted, "one.ovpn")
    return booted


@pytest.fixture(scope="module")
def client(lab: Booted, booted: AppVM) -> Iterator[Qube]:
    return lab.client("work", netvm=booted)


def said(qube: AppVM) -> dict[str, Any]:
    return json.loads(qube.run([PROGRAM, "status", "--json"], check=False).stdout)


def up(qube: AppVM, profile: str, timeout: float = 30) -> None:
    """Waits until the tunnel is up with this profile, and its server answers in it."""
    number = {"one.ovpn": 1, "two.ovpn": 2}[profile]
    until = time.monotonic() + timeout
    while True:
        status = said(qube)
        if (status["state"], status["profile"]) == ("up", profile) and pings(qube, number):
            return
        assert time.monotonic() < until, (status, qube.journal("-u", "NetworkManager")[-3000:])
        time.sleep(0.2)


def pings(qube: Qube, number: int) -> bool:
    words = ["ping", "-c1", "-W1", "-n", f"10.64.{number}.1"]
    return qube.run(words, check=False).returncode == 0


def openvpn(qube: AppVM) -> str:
    return qube.run("pidof openvpn", check=False).stdout.strip()


def test_it_is_up_after_a_start_by_itself(booted):
    """R34. From /rw alone; the secrets are root's alone, in memory, and nowhere in the journal."""
    up(booted, "one.ovpn")
    assert booted.failed() == []
    names = booted.run("find /run/NetworkManager/system-connections/qubes-vpn-* /run/qubes-vpn "
                       "-type f -printf '%m %u %f\\n'").stdout.splitlines()  # fmt: skip
    assert "600 root qubes-vpn-one.ovpn.nmconnection" in names
    assert "600 root qubes-vpn-two.ovpn.nmconnection" in names
    assert booted.run("ls /rw/config/NM-system-connections /etc/NetworkManager/system-connections",
                      check=False).stdout.count("qubes-vpn") == 0  # fmt: skip
    everything = booted.journal() + booted.run("ps axww -o args").stdout
    everything += json.dumps(said(booted)) + booted.run("nmcli connection show").stdout
    assert (USER in everything, PASSWORD in everything) == (False, False)


@pytest.mark.parametrize(
    "break_it",
    [
        "kill -9 $(pidof openvpn)",
        "kill $(pidof openvpn)",
        # What is left of it keeps the interface: the next one could not have it.
        "kill -9 $(pidof nm-openvpn-service)",
        "systemctl restart NetworkManager",
        "kill -9 $(pidof NetworkManager)",
        "systemctl kill --signal=KILL qubes-vpn-watch; kill -9 $(pidof openvpn)",
        "systemctl restart qubes-vpn-watch",
    ],
)
def test_it_comes_back(qube, break_it):
    qube.run(break_it)
    time.sleep(0.5)
    up(qube, "one.ovpn")


def test_it_comes_back_with_its_uplink(qube):
    device = qube.vif
    qube.upstream.run(["ip", "link", "set", device, "down"])
    until = time.monotonic() + 20
    while said(qube)["state"] == "up" and time.monotonic() < until:
        time.sleep(0.2)
    assert said(qube)["state"] == "down"
    # Its routes went with it; without them the lab's internet claims the qube's own address.
    own = (qube.qubesdb["/qubes-ip"], qube.qubesdb["/qubes-ip6"])
    lines = [f"link set {device} up", *(f"route replace {one} dev {device}" for one in own)]
    qube.upstream.run(["ip", "-batch", "-"], input="\n".join(lines))
    up(qube, "one.ovpn")


def test_it_is_made_anew_after_a_sleep(qube):
    before = openvpn(qube)
    qube.suspend()
    qube.resume()
    until = time.monotonic() + 15
    while openvpn(qube) in ("", before) and time.monotonic() < until:
        time.sleep(0.2)
    assert openvpn(qube) != before
    up(qube, "one.ovpn")


def test_what_a_user_takes_down_stays_down(qube):
    qube.run(["nmcli", "connection", "down", "qubes-vpn-one.ovpn"])
    time.sleep(8)
    assert said(qube)["state"] == "down"
    qube.run(["nmcli", "connection", "up", "qubes-vpn-two.ovpn"], timeout=70)
    up(qube, "two.ovpn")
    qube.run("kill -9 $(pidof openvpn)")
    time.sleep(0.5)
    up(qube, "two.ovpn")  # and not the pillar's


def test_it_is_switched_and_back_by_its_own_program(qube):
    for profile in ("two.ovpn", "one.ovpn"):
        qube.run([PROGRAM, "up", profile], timeout=80)
        up(qube, profile, timeout=3)
        active = qube.run("nmcli -t -f NAME connection show --active").stdout
        assert active.count("qubes-vpn-") == 1


def test_without_a_usable_profile_it_stays_closed_and_says_what_to_do(qube):
    """At the next start: no connection, no tunnel, and a sentence."""
    qube.run(["mv", f"{CREDENTIALS}/one.ovpn", "/rw/aside"])
    qube.stop()
    qube.start()
    time.sleep(3)
    status = said(qube)
    assert status["state"] == "down"
    assert openvpn(qube) == ""
    told = " ".join(status["problems"])
    assert "credentials/one.ovpn: not there" in told
    assert "sudo install -m600" in told
    assert "one.ovpn: not there" in qube.journal("-u", "qubes-vpn-tunnel")
    qube.run(["mv", "/rw/aside", f"{CREDENTIALS}/one.ovpn"])
    qube.run([PROGRAM, "up"], timeout=80)
    up(qube, "one.ovpn")
