# SPDX-License-Identifier: GPL-2.0-or-later
"""The tunnel in a booted VPN qube by NetworkManager and the kernel's WireGuard (R31 to R34, R41).

The template's files as they are, real NetworkManager, real servers.  Where this machine's kernel
has no WireGuard, `test_other_kernel.py` runs all of this under one that has.
"""

import ipaddress
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from in_qube import run_in
from tunnelled import PROGRAM, pings, said, state_functions, template, up
from wireguard_provider import SERVERS, WireGuardProvider

from qubes_vpn_formula.lab.booted.machine import AppVM, Booted
from qubes_vpn_formula.lab.capture import Capture, Frame
from qubes_vpn_formula.lab.qube import SLOWNESS, Qube

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600 * SLOWNESS)]

PROFILES = {"one.conf": 1, "two.conf": 2, "six.conf": 3}
PILLAR = {
    "name": "sys-vpn",
    "kind": "wireguard",
    "interface": "wg0",
    "profile": "one.conf",
    "profiles": ["two.conf", "six.conf", "wrong.conf"],
}
CONF = """kind = wireguard
interface = wg0
profile = one.conf
further = two.conf
further = six.conf
further = wrong.conf
"""
#: Seconds for a tunnel to come up.
PATIENCE = 40 * SLOWNESS
_TOLD = "/run/told"
_WRONG = "cGxhaW5seS1ub3QtdGhlLWN1c3RvbWVycy1vd24ta2U="


@pytest.fixture(scope="module")
def provider(lab: Booted) -> WireGuardProvider:
    try_it = "ip link add wg-try type wireguard && ip link del wg-try"
    if lab.internet.run(try_it, check=False).returncode:
        pytest.skip("this kernel has no WireGuard: see test_other_kernel.py")
    made = WireGuardProvider(lab.internet)
    for number in SERVERS:
        made.serve(number)
    return made


@pytest.fixture(scope="module")
def endpoints(provider: WireGuardProvider) -> list[str]:
    return [provider.endpoint(number) for number in SERVERS]


@pytest.fixture(scope="module")
def booted(lab: Booted, provider: WireGuardProvider, endpoints: list[str]) -> AppVM:
    """A VPN qube whose template has all that the formula puts there, and its profiles in /rw."""
    qube = lab.appvm("sys-vpn", template(lab), services=["qubes-vpn", "network-manager"])
    folder = qube.volume / "config/vpn"
    credentials = folder / "credentials"
    credentials.mkdir(0o700, parents=True)
    (folder / "endpoints.txt").write_text("\n".join(endpoints))
    (folder / "killswitch.conf").write_text("interface = wg0\nlog = no\n")
    (folder / "tunnel.conf").write_text(CONF)
    profiles = {name: provider.profile(number) for name, number in PROFILES.items()}
    profiles["two.conf"] = provider.profile(2, keepalive=True)
    profiles["wrong.conf"] = provider.profile(1, private=_WRONG)
    for name, text in profiles.items():
        (credentials / name).touch(0o600)
        (credentials / name).write_text(text)
    return qube


@pytest.fixture
def qube(booted: AppVM, provider: WireGuardProvider) -> AppVM:
    """With the pillar's tunnel up, whatever the test before left."""
    provider.know(1)
    if not booted.running:
        booted.start()
    status = said(booted)
    if (status["state"], status["profile"]) != ("up", "one.conf"):
        booted.run([PROGRAM, "up"], timeout=80)
    up(booted, "one.conf", PATIENCE)
    return booted


@pytest.fixture(scope="module")
def client(lab: Booted, booted: AppVM) -> Iterator[Qube]:
    return lab.client("work", netvm=booted)


def _number(qube: AppVM) -> str:
    """Of the tunnel's interface; one that is made anew has another."""
    return qube.run(["cat", "/sys/class/net/wg0/ifindex"], check=False).stdout


def _until(holds: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.5)


def test_it_is_up_only_when_a_server_has_answered(booted, provider):
    """R34.  From /rw alone, and by itself; before that the truth is told, and again and again."""
    provider.forget(1)
    booted.start()
    _until(lambda: said(booted)["state"] == "connecting", "never connecting")
    shown = "nmcli -t -f NAME,STATE connection show --active"
    activated = "qubes-vpn-one.conf:activated"
    _until(lambda: activated in booted.run(shown).stdout.splitlines(), "never activated")
    for _ in range(3):
        done = booted.run([PROGRAM, "status"], check=False)
        assert done.returncode == 1
        assert "state: connecting" in done.stdout
        time.sleep(3)
    provider.know(1)
    up(booted, "one.conf", PATIENCE)
    done = booted.run([PROGRAM, "status"])
    assert done.stdout.splitlines()[0] == "state: up"
    assert booted.failed() == []
    # Nobody sends anything in the tunnel of a profile without keepalive: the watchdog has.
    assert booted.run("wg show wg0 persistent-keepalive").stdout.split()[1] == "off"


def test_secrets_are_roots_alone(qube, provider):
    """R33."""
    everything = qube.journal() + qube.run("ps axww -o args").stdout + json.dumps(said(qube))
    everything += qube.run("nmcli connection show qubes-vpn-one.conf").stdout
    assert (provider.private in everything, _WRONG in everything) == (False, False)
    find = "find /run/NetworkManager/system-connections/qubes-vpn-* -printf '%m %u %f\\n'"
    assert sorted(qube.run(find).stdout.splitlines()) == [
        f"600 root qubes-vpn-{name}.nmconnection"
        for name in ("one.conf", "six.conf", "two.conf", "wrong.conf")
    ]
    kept = "ls /rw/config/NM-system-connections /etc/NetworkManager/system-connections"
    assert "qubes-vpn" not in qube.run(kept, check=False).stdout


def test_all_routes_and_all_names_are_the_tunnels(qube):
    """R31, R50."""
    for address in ("192.0.2.1", "2001:db8::1"):
        assert " dev wg0 " in qube.run(["ip", "route", "get", address]).stdout
    lines = qube.read("/etc/resolv.conf").splitlines()
    assert [line for line in lines if "nameserver" in line] == ["nameserver 10.64.1.1"]
    assert " mtu 1420 " in qube.run("ip link show wg0").stdout


@pytest.mark.parametrize(
    "break_it",
    [
        "ip link del wg0",
        "ip link set wg0 down",
        "systemctl restart NetworkManager",
        "kill -9 $(pidof NetworkManager)",
        "systemctl restart qubes-vpn-watch",
        "systemctl kill --signal=KILL qubes-vpn-watch; ip link del wg0",
        "ip address flush dev wg0; ip route flush table all dev wg0",
    ],
)
def test_it_comes_back(qube, break_it):
    """R34."""
    qube.run(break_it)
    time.sleep(1)
    up(qube, "one.conf", PATIENCE)


def test_it_comes_back_with_its_uplink(qube):
    device = qube.vif
    qube.upstream.run(["ip", "link", "set", device, "down"])
    _until(lambda: said(qube)["state"] != "up", "still up")
    own = (qube.qubesdb["/qubes-ip"], qube.qubesdb["/qubes-ip6"])
    lines = [f"link set {device} up", *(f"route replace {one} dev {device}" for one in own)]
    lines.append(f"address replace {qube.qubesdb['/qubes-gateway6']}/128 dev {device} nodad")
    qube.upstream.run(["ip", "-batch", "-"], input="\n".join(lines))
    up(qube, "one.conf", PATIENCE)


def test_it_is_made_anew_after_a_sleep(qube):
    before = _number(qube)
    qube.suspend()
    qube.resume()
    _until(lambda: _number(qube) not in ("", before), "not made anew")
    up(qube, "one.conf", PATIENCE)


def test_what_a_user_takes_down_stays_down_and_what_he_brings_up_is_kept(qube):
    qube.run(["nmcli", "connection", "down", "qubes-vpn-one.conf"])
    time.sleep(20)
    assert said(qube)["state"] == "down"
    # The second without taking the first one down.
    for name in ("one.conf", "two.conf"):
        qube.run(["nmcli", "connection", "up", f"qubes-vpn-{name}"], timeout=70)
        up(qube, name, PATIENCE)
        active = qube.run("nmcli -t -f NAME connection show --active").stdout
        assert active.count("qubes-vpn-") == 1
    qube.run("ip link del wg0")
    time.sleep(1)
    up(qube, "two.conf", PATIENCE)  # and not the pillar's


def test_an_endpoint_of_ipv6_and_back(qube):
    """R43."""
    for name in ("six.conf", "one.conf"):
        qube.run([PROGRAM, "up", name], timeout=80)
        up(qube, name, 10)


def test_a_key_that_no_server_knows_is_never_up(qube):
    """R34: NetworkManager calls it activated."""
    done = qube.run([PROGRAM, "up", "wrong.conf"], check=False, timeout=100)
    assert done.returncode == 1
    assert "no answer from the server for 60 seconds" in done.stderr
    status = said(qube)
    assert (status["state"], status["profile"]) == ("connecting", "wrong.conf")
    assert qube.run([PROGRAM, "status"], check=False).returncode == 1
    assert not pings(qube, 1)


# --- a server that goes away, and what the user is told


def test_a_server_that_falls_silent_and_answers_again(qube, client, provider):
    """R34, R84: the tunnel is made anew, is called connecting, and is up once it answers."""
    qube.write(
        "/usr/bin/notify-send", '#!/bin/sh\nfor text; do :; done; echo "$text" >>/run/told\n', 0o755
    )
    qube.run("id user || useradd user; install -d -o user /run/user/$(id -u user)")
    qube.run("touch /run/user/$(id -u user)/bus; install -m666 /dev/null /run/told")
    qube.run("systemctl restart qubes-vpn-watch")
    told = ["The VPN tunnel is up."]
    _until(lambda: qube.read(_TOLD).splitlines() == told, "no notice")
    before = _number(qube)
    provider.forget(1)
    sender = client.popen(["ping", "-n", "-q", "-i1", "192.0.2.1"])
    _until(lambda: _number(qube) not in ("", before), "not made anew", 300 + PATIENCE)
    assert "no answers: making the tunnel anew" in qube.journal("-u", "qubes-vpn-watch")
    told.append("The VPN tunnel is down. Clients are offline until it is back.")
    _until(lambda: qube.read(_TOLD).splitlines() == told, "no notice")
    assert said(qube)["state"] == "connecting"
    provider.know(1)
    up(qube, "one.conf", PATIENCE)
    told.append("The VPN tunnel is up.")
    _until(lambda: qube.read(_TOLD).splitlines() == told, "no notice")
    sender.send_signal(2)
    sender.wait()


# --- what leaves the qube meanwhile


def test_nothing_goes_out_in_clear_meanwhile(qube, client, tmp_path):
    """R34, R41. A client sends all the time, while the tunnel is broken in every way."""
    marker = b"\xc1ear-text-of-lab"
    ping = ["ping", "-n", "-q", "-i0.05", "-p", marker.hex()]
    with Capture(qube.network, qube.upstream, qube.vif, tmp_path / "uplink.pcap") as capture:
        senders = [client.popen([*ping, address]) for address in ("192.0.2.77", "2001:db8::77")]
        time.sleep(1)
        for break_it in (
            "ip link del wg0",
            "systemctl restart NetworkManager",
            "kill -9 $(pidof NetworkManager)",
            f"{PROGRAM} up two.conf",
            "nmcli connection up qubes-vpn-one.conf",
            f"{PROGRAM} up six.conf",
            f"{PROGRAM} down",
            "ip link add wg0 type dummy || ip link add wg0 type veth",
            "ip link del wg0",
            "sleep 2",
            f"{PROGRAM} up",
        ):
            qube.run(break_it, check=False, timeout=80)
            time.sleep(2)
        up(qube, "one.conf", PATIENCE)
        assert client.run(["ping", "-c1", "-W5", "192.0.2.77"]).returncode == 0
        for sender in senders:
            sender.send_signal(2)
            sender.wait()
        seen = capture.finish()
    assert seen.trouble == ""
    assert seen.marked(marker) == []
    assert _destinations(seen.frames) == set(SERVERS.values())  # and so it would have seen others


def _destinations(frames: tuple[Frame, ...]) -> set[str]:
    """Where IP packets went, but for neighbour discovery."""
    found = set()
    for frame in frames:
        kind, data = frame.data[12:14], frame.data[14:]
        if kind == b"\x08\x00":
            found.add(str(ipaddress.ip_address(data[16:20])))
        elif kind == b"\x86\xdd" and not (data[6] == 58 and data[40] in range(133, 137)):
            found.add(str(ipaddress.ip_address(data[24:40])))
    return found


# --- the state, by Salt's real loader


@pytest.fixture(scope="module")
def state(
    tmp_path_factory: pytest.TempPathFactory, endpoints: list[str], provider: WireGuardProvider
) -> Callable[..., dict[str, Any]]:
    """`qubes_vpn.tunnel`, the function itself, run in a qube."""
    functions = state_functions(tmp_path_factory.mktemp("salt"))

    def run(qube: AppVM, test: bool = False, **changed: Any) -> dict[str, Any]:
        arguments = {**PILLAR, "endpoints": endpoints, **changed}
        done = run_in(qube, lambda: dict(functions[test]["qubes_vpn.tunnel"](**arguments)))
        assert (provider.private in str(done), _WRONG in str(done)) == (False, False)
        return done

    return run


def test_a_second_run_is_silent(qube, state):
    """R69, R82."""
    before = _number(qube)
    for test in (True, False):
        done = state(qube, test)
        assert (done["result"], done["changes"]) == (True, {}), done
        assert done["comment"].startswith("The tunnel wg0 is up with one.conf. Ready as well: ")
    assert _number(qube) == before


def test_a_change_of_the_pillar_switches_and_a_dry_run_foretells_it(qube, state):
    """R15, R69: and back."""
    before = _number(qube)
    changed = {"profile": "six.conf", "profiles": ["two.conf", "one.conf", "wrong.conf"]}
    dry = state(qube, test=True, **changed)
    assert (dry["result"], _number(qube)) == (None, before)
    done = state(qube, **changed)
    assert (done["result"], done["changes"]) == (True, dry["changes"]), done
    assert done["changes"]["tunnel"] == {"old": "one.conf", "new": "six.conf"}
    up(qube, "six.conf", 10)
    back = state(qube)
    assert (back["result"], back["changes"]["tunnel"]["new"]) == (True, "one.conf")


def test_the_state_is_no_success_when_no_server_answers(qube, state):
    """R34: another profile is taken down for it, and the report says what is."""
    changed = {"profile": "wrong.conf", "profiles": ["one.conf", "two.conf", "six.conf"]}
    done = state(qube, **changed)
    assert done["result"] is False, done
    assert "no answer from the server for 60 seconds" in done["comment"]
    assert "tunnel" not in done["changes"]
    assert state(qube)["result"] is True
