# SPDX-License-Identifier: GPL-2.0-or-later
"""The tunnel in a booted VPN qube: real NetworkManager, real OpenVPN, real servers (R32 to R35).

Not here: NetworkManager with WireGuard needs the kernel's WireGuard, which the lab's kernel lacks.
"""

import importlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import asking
from in_qube import run_in
from provider import PASSWORD, USER, Provider
from readme.document import IN_A_QUBE, LOGIN, Document
from tunnelled import (
    CREDENTIALS,
    PROGRAM,
    openvpn,
    put_profiles,
    said,
    state_functions,
    template,
    up,
)

import qubes_vpn_told
from qubes_vpn_formula.lab import senders
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted
from qubes_vpn_formula.lab.capture import Capture
from qubes_vpn_formula.lab.oracle import Endpoint, Oracle
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.lab.questions import Eavesdropper, Question, ask
from qubes_vpn_formula.lab.traffic import Flood, Resolver, send

#: Where the lab's root has to be made first.
pytestmark = pytest.mark.timeout(600)

SERVERS = ("198.51.100.1", "198.51.100.2")
PILLAR = {
    "name": "sys-vpn",
    "kind": "openvpn",
    "interface": "tun0",
    "profile": "one.ovpn",
    "profiles": ["two.ovpn"],
    "endpoints": [f"{server}:1194/udp" for server in SERVERS],
}
DNS = "/usr/lib/qubes-vpn/dns"
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
    qube = lab.appvm("sys-vpn", template(lab), services=["qubes-vpn", "network-manager"])
    qube.start()
    qube.write("/rw/config/vpn/endpoints.txt", "\n".join(PILLAR["endpoints"]))
    qube.write("/rw/config/vpn/killswitch.conf", "interface = tun0\nlog = no\n")
    qube.write("/rw/config/vpn/tunnel.conf", CONF)
    put_profiles(qube, provider)
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
def functions(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Any]:
    """The states' functions, by `test`."""
    return state_functions(tmp_path_factory.mktemp("salt"))


@pytest.fixture(scope="module")
def client(lab: Booted, booted: AppVM) -> Iterator[Qube]:
    return lab.client("work", netvm=booted)


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


def test_dom0_looks_disconnects_connects_and_switches(qube, embedded, monkeypatch, tmp_path):
    """R67. By the services of the qube; what dom0 makes of answers: tests/salt/test_status.py."""
    connect = asking(embedded, monkeypatch, tmp_path, qube)
    import qubes_vpn_checkup

    def status():
        found = qubes_vpn_checkup.status(connect(), "work", "tunnel")
        return found, {each["id"]: each["state"] for each in found["tunnel"]["profiles"]}

    def switch(service, argument=""):
        return qubes_vpn_checkup.switch(connect(), "work", service, argument)

    one, two = (qubes_vpn_told.profile_id(name) for name in ("one.ovpn", "two.ovpn"))
    found, states = status()
    assert (found["tunnel"]["kind"], found["tunnel"]["state"]) == ("openvpn", "up")
    assert states == {one: "up", two: "down"}
    assert found["tunnel"]["faults"] == []
    assert found["tunnel"]["server"] == "198.51.100.1:1194"
    assert found["tunnel"]["handshake"] is None
    assert found["tunnel"]["received"] > 0
    assert found["killswitch"]["state"] == "open"
    assert {found["units"][name] for name in ("NetworkManager", "qubes-vpn-watch")} == {"active"}
    assert found["units"]["mullvad-daemon"] == "absent"

    assert switch("Disconnect")["state"] == "down"
    assert said(qube)["state"] == "down"
    assert status()[1] == {one: "down", two: "down"}
    assert switch("Switch", two)["profile"] == two
    assert switch("Switch", two)["former"] == two
    up(qube, "two.ovpn")
    with pytest.raises(qubes_vpn_ask().NoAnswer, match="its profile is missing or cannot be used"):
        switch("Switch", "0" * 16)
    assert switch("Connect")["profile"] == one
    up(qube, "one.ovpn")

    qube.run(f"mv {CREDENTIALS}/two.ovpn /rw; mv {CREDENTIALS}/one.ovpn {CREDENTIALS}/two.ovpn")
    try:
        faults = status()[0]["tunnel"]["faults"]
        with pytest.raises(qubes_vpn_ask().NoAnswer, match="its profile is missing"):
            switch("Connect")
    finally:
        qube.run(f"mv {CREDENTIALS}/two.ovpn {CREDENTIALS}/one.ovpn; mv /rw/two.ovpn {CREDENTIALS}")
    assert {"profile-missing", "keyfile-differs"} == {*faults}


def qubes_vpn_ask():
    """The module, which can be imported once there is an embedded Qubes."""
    return importlib.import_module("qubes_vpn_ask")


def test_the_readmes_commands(qube):
    """R33. From where qvm-copy leaves the profile to where only root reads it; what status says."""
    readme = Document((Path(__file__).parents[2] / "README.md").read_text())
    folder, take, _ = readme.commands(LOGIN)
    for sender in ("work", "dev"):
        qube.run(["install", "-d", f"/home/user/QubesIncoming/{sender}"])
        qube.write(f"/home/user/QubesIncoming/{sender}/wg-se.conf", "[Interface]\n")
    status = IN_A_QUBE[-1]
    for line in (folder, take, folder, take):
        qube.run(f'sudo() {{ "$@"; }}; HOME=/home/user; {line}')
        assert line == folder or not qube.run("find /home/user/QubesIncoming -type f").stdout
    shown = qube.run(f"stat -c '%U %a' {CREDENTIALS} {CREDENTIALS}/wg-se.conf").stdout
    assert shown == "root 700\nroot 600\n"
    assert "state: up" in qube.run(f'sudo() {{ "$@"; }}; {status}').stdout


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "break_it",
    [
        "kill -9 $(pidof openvpn)",
        # What is left of it keeps the interface: the next one could not have it.
        "kill -9 $(pidof nm-openvpn-service)",
        "systemctl restart NetworkManager",
        slow("kill $(pidof openvpn)"),
        slow("kill -9 $(pidof NetworkManager)"),
        slow("systemctl kill --signal=KILL qubes-vpn-watch; kill -9 $(pidof openvpn)"),
        slow("systemctl restart qubes-vpn-watch"),
        slow("ip route flush table all dev tun0"),
        slow("ip address flush dev tun0"),
        slow("ip route del default dev tun0"),
    ],
)
def test_it_comes_back(qube, break_it):
    qube.run(break_it)
    time.sleep(0.5)
    up(qube, "one.ovpn")


def test_networkmanager_alone_leaves_it_down_and_nothing_is_in_clear(qube, client, tmp_path):
    """R34, R41: why there is a watch, and what holds without it.

    With OpenVPN killed the default route is the uplink's again, and NetworkManager is content.
    """
    qube.run("systemctl stop qubes-vpn-watch.service")
    capture = Capture(qube.network, qube.upstream, qube.vif, tmp_path / "alone.pcap")
    try:
        with capture:
            qube.run("kill -9 $(pidof openvpn)")
            time.sleep(2)
            assert qube.run("ip route get 192.0.2.7").stdout.split()[4] == "eth0"
            send(client, senders.udp("198.51.100.77", 443, b"left-alone"))
            qube.run("getent hosts 198.51.100.1 a.example", check=False, timeout=60)
            time.sleep(3)
            captured = capture.finish()
        assert openvpn(qube) == ""
        assert said(qube)["state"] == "down"
    finally:
        qube.run("systemctl start qubes-vpn-watch.service")
    packets = Oracle([Endpoint("udp", one, 1194) for one in SERVERS], b"left-alone")
    for judge in (packets, Eavesdropper("a.example")):
        assert str(judge.judge(captured)) == "closed"
    up(qube, "one.ovpn")


@pytest.mark.slow
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


@pytest.mark.slow
def test_it_is_made_anew_after_a_sleep(qube):
    before = openvpn(qube)
    qube.suspend()
    qube.resume()
    until = time.monotonic() + 15
    while openvpn(qube) in ("", before) and time.monotonic() < until:
        time.sleep(0.2)
    assert openvpn(qube) != before
    up(qube, "one.ovpn")


@pytest.mark.slow
def test_what_a_user_takes_down_stays_down(qube):
    qube.run(["nmcli", "connection", "down", "qubes-vpn-one.ovpn"])
    time.sleep(8)
    assert said(qube)["state"] == "down"
    qube.run(["nmcli", "connection", "up", "qubes-vpn-two.ovpn"], timeout=70)
    up(qube, "two.ovpn")
    qube.run("kill -9 $(pidof openvpn)")
    time.sleep(0.5)
    up(qube, "two.ovpn")  # and not the pillar's


@pytest.mark.slow
def test_it_is_switched_and_back_by_its_own_program(qube):
    for profile in ("two.ovpn", "one.ovpn"):
        qube.run([PROGRAM, "up", profile], timeout=80)
        up(qube, profile, timeout=3)
        active = qube.run("nmcli -t -f NAME connection show --active").stdout
        assert active.count("qubes-vpn-") == 1


@pytest.mark.slow
def test_the_desktop_is_told(qube):
    """R84: in the session of the qube's user. A stand-in for notify-send, which needs a desktop."""
    qube.write(
        "/usr/bin/notify-send",
        '#!/bin/sh\necho "$(id -un) $DISPLAY $DBUS_SESSION_BUS_ADDRESS $*" >>/tmp/told\n',
        0o755,
    )
    qube.run("id user || useradd user; install -d -o user /run/user/$(id -u user)")
    qube.run("touch /run/user/$(id -u user)/bus; rm -f /tmp/told")
    qube.run("systemctl restart qubes-vpn-watch")
    number = qube.run("id -u user").stdout.strip()
    session = f"user :0 unix:path=/run/user/{number}/bus --expire-time=8000"
    for command, icon, text in (
        ("true", "network-transmit-receive", "The VPN tunnel is up."),
        (f"{PROGRAM} down", "network-offline", "The VPN tunnel is down. Clients are offline"),
    ):
        qube.run(command)
        until = time.monotonic() + 50
        while text not in (told := qube.run("cat /tmp/told", check=False).stdout):
            assert time.monotonic() < until, told
            time.sleep(0.5)
        assert f"{session} --icon={icon} {text}" in told
    assert told.count("\n") == 2


@pytest.mark.slow
def test_a_server_that_is_gone_and_back(qube, provider):
    """It gives another address than before, so that openvpn makes its interface anew."""
    qube.run("kill -9 $(pidof openvpn)")
    time.sleep(0.5)
    up(qube, "one.ovpn")
    provider.vanish(1)
    time.sleep(5)
    provider.serve(1)
    up(qube, "one.ovpn", timeout=60)


@pytest.mark.slow
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


# --- clients' DNS


@pytest.fixture(scope="module")
def resolvers(provider: Provider) -> None:
    """One in each tunnel, whose answers tell which."""
    for number in (1, 2):
        Resolver(provider.internet, f"10.64.{number}.1", f"192.0.2.{number}")


def everybody(client: Qube, wait: float = 1) -> set[str]:
    """What a client is answered when it asks everybody there is; or why not."""
    servers = ("10.139.1.1", "10.139.1.2", "8.8.8.8")
    asked = [
        Question(one, "a.example", how, wait=wait) for one in servers for how in ("udp", "tcp")
    ]
    return {",".join(answer.addresses) or answer.error for answer in ask(client, *asked)}


def dns(qube: AppVM) -> dict[str, Any]:
    """What its `dns status` says."""
    return json.loads(qube.run([DNS, "status", "--json"], check=False).stdout)


def followed(qube: AppVM, *addresses: str, timeout: float = 20) -> None:
    """Waits until clients' DNS goes there and nowhere else."""
    until = time.monotonic() + timeout
    while dns(qube)["resolvers"] != list(addresses):
        assert time.monotonic() < until, (dns(qube), qube.journal("-u", "qubes-vpn-follow"))
        time.sleep(0.1)


def delay(qube: AppVM) -> float:
    """Seconds from NetworkManager's last word on resolvers to clients' DNS going there."""
    said, done = qube.run("stat -c %.9Y /etc/resolv.conf /run/qubes-vpn/resolvers").stdout.split()
    return float(done) - float(said)


def test_clients_dns_follows_the_tunnel_within_a_second(qube, client, resolvers, tmp_path):
    """R50, R55: what NetworkManager was told by the server; nothing of it in clear meanwhile."""
    followed(qube, "10.64.1.1")
    assert (dns(qube)["problems"], everybody(client)) == ([], {"192.0.2.1"})
    question = senders.dns("8.8.8.8", b"flood", rate=50)[0]
    capture = Capture(qube.network, qube.upstream, qube.vif, tmp_path / "dns.pcap")
    with capture, Flood(client, question):
        qube.run([PROGRAM, "up", "two.ovpn"], timeout=80)
        followed(qube, "10.64.2.1")
        assert delay(qube) < 1
        assert everybody(client) == {"192.0.2.2"}
        qube.run([PROGRAM, "down"], timeout=80)
        followed(qube)
        assert "192.0.2.2" not in everybody(client, wait=0.2)
        assert dns(qube)["why"] == ["closed: no tunnel is up"]
        qube.run([PROGRAM, "up"], timeout=80)
        followed(qube, "10.64.1.1")
        assert everybody(client) == {"192.0.2.1"}
        verdict = Eavesdropper("a.example").judge(capture.finish())
    assert (verdict.trouble, verdict.leaks) == ("", ())


def test_the_state_of_clients_dns(qube, resolvers, functions):
    """R50, R69: silent when it is so; what a dry run foretells is what is done."""

    def state(test=False):
        arguments = {"name": "sys-vpn", "to": "tunnel"}
        return run_in(qube, lambda: dict(functions[test]["qubes_vpn.dnat_dns"](**arguments)))

    followed(qube, "10.64.1.1")
    for test in (True, False):
        done = state(test)
        assert (done["result"], done["changes"]) == (True, {}), done
    assert done["comment"] == "Clients' DNS goes to 10.64.1.1 in the tunnel."
    qube.run("systemctl stop qubes-vpn-follow.service")
    assert dns(qube)["resolvers"] == []
    dry = state(test=True)
    assert (dry["result"], dns(qube)["follows"]) == (None, False)
    done = state()
    assert (done["result"], done["changes"]) == (True, dry["changes"]), done
    assert done["changes"] == {
        "follower": {"old": "not running", "new": "running"},
        "resolvers": {"old": [], "new": ["10.64.1.1"]},
    }


@pytest.mark.slow
def test_another_resolver_at_a_reconnect_is_followed_within_a_second(
    qube, client, provider, resolvers
):
    """R50."""
    provider.internet.run("ip address add 10.64.1.53/32 dev lo")
    Resolver(provider.internet, "10.64.1.53", "192.0.2.53")
    provider.vanish(1)
    time.sleep(5)
    provider.serve(1, resolver="10.64.1.53")
    try:
        up(qube, "one.ovpn", timeout=60)
        followed(qube, "10.64.1.53")
        assert (delay(qube) < 1, everybody(client)) == (True, {"192.0.2.53"})
    finally:
        provider.vanish(1)
        provider.serve(1)
    up(qube, "one.ovpn", timeout=60)
    followed(qube, "10.64.1.1")


@pytest.mark.slow
def test_a_resolver_that_falls_silent_is_closed_and_comes_back(qube, client, provider, resolvers):
    """R52."""
    followed(qube, "10.64.1.1")
    provider.internet.run("nft 'table ip t { chain c { type filter hook input priority 0;"
                          " ip daddr 10.64.1.1 udp dport 53 drop; }; }'")  # fmt: skip
    followed(qube, timeout=45)
    assert dns(qube)["why"] == ["closed: no answer through the tunnel from 10.64.1.1"]
    provider.internet.run("nft delete table ip t")
    followed(qube, "10.64.1.1")
    assert everybody(client) == {"192.0.2.1"}


# --- what leaves the qube meanwhile


@pytest.mark.slow
def test_nothing_goes_out_in_clear_meanwhile(qube, client, tmp_path):
    """R34, R41. A client sends all the time, while the tunnel is broken in every way."""
    marker = b"\xc1ear-text-of-lab"
    ping = ["ping", "-n", "-q", "-i0.02", "-p", marker.hex(), "198.51.100.77"]
    with Capture(qube.network, qube.upstream, qube.vif, tmp_path / "uplink.pcap") as capture:
        sender = client.popen(ping)
        time.sleep(1)
        for break_it in (
            "kill -9 $(pidof openvpn)",
            "systemctl restart NetworkManager",
            "kill -9 $(pidof nm-openvpn-service)",
            f"{PROGRAM} up two.ovpn",
            f"{PROGRAM} down",
            "sleep 2",
            f"{PROGRAM} up",
        ):
            qube.run(break_it, check=False, timeout=80)
            time.sleep(1)
        up(qube, "one.ovpn")
        sender.send_signal(2)
        sender.wait()
        seen = capture.finish()
    assert seen.trouble == ""
    assert seen.marked(marker) == []
    outside = {".".join(map(str, data[30:34])) for data in map(_ipv4, seen.frames) if data}
    assert outside == set(SERVERS)  # and so it would have seen others


def _ipv4(frame: Any) -> bytes:
    return frame.data if frame.data[12:14] == b"\x08\x00" else b""


# --- the state, by Salt's real loader


@pytest.fixture(scope="module")
def state(functions: dict[bool, Any]) -> Callable[..., dict[str, Any]]:
    """`qubes_vpn.tunnel`, the function itself, run in a qube."""

    def run(qube: AppVM, test: bool = False, **changed: Any) -> dict[str, Any]:
        done = run_in(
            qube, lambda: dict(functions[test]["qubes_vpn.tunnel"](**{**PILLAR, **changed}))
        )
        assert (USER in str(done), PASSWORD in str(done), "BEGIN" in str(done)) == (False,) * 3
        return done

    return run


TWO = {"profile": "two.ovpn", "profiles": ["one.ovpn"]}


def test_a_second_run_is_silent(qube, state):
    """R69, R82."""
    before = openvpn(qube)
    for test in (True, False):
        done = state(qube, test)
        assert (done["result"], done["changes"]) == (True, {}), done
    told = "The tunnel tun0 is up with one.ovpn. Ready as well: two.ovpn."
    assert done["comment"].startswith(told)
    assert openvpn(qube) == before


def test_a_change_of_the_pillar_switches_and_a_dry_run_foretells_it(qube, state):
    """R15, R69: and back."""
    before = openvpn(qube)
    dry = state(qube, test=True, **TWO)
    assert (dry["result"], openvpn(qube)) == (None, before)
    done = state(qube, **TWO)
    assert (done["result"], done["changes"]) == (True, dry["changes"]), done
    assert done["changes"]["tunnel"] == {"old": "one.ovpn", "new": "two.ovpn"}
    up(qube, "two.ovpn", timeout=3)
    back = state(qube)
    assert (back["result"], back["changes"]["tunnel"]["new"]) == (True, "one.ovpn")
    up(qube, "one.ovpn", timeout=3)


@pytest.mark.slow
def test_a_changed_profile_is_taken_up_anew(qube, state, provider):
    path = f"{CREDENTIALS}/one.ovpn"
    for text in (provider.profile(1) + "mssfix 1300\n", provider.profile(1)):
        before = openvpn(qube)
        qube.write(path, text, 0o600)
        assert state(qube, test=True)["changes"] == {
            "connections": {"one.ovpn": "changed"},
            "tunnel": {"old": "one.ovpn", "new": "one.ovpn"},
        }
        done = state(qube)
        assert (done["result"], list(done["changes"])) == (True, ["connections", "tunnel"]), done
        assert openvpn(qube) != before
    assert state(qube)["changes"] == {}


@pytest.mark.slow
def test_what_was_edited_by_hand_is_put_right(qube, state):
    """NetworkManager moves an edited connection to /etc, which outlives a restart of the qube."""
    words = ["nmcli", "connection", "modify", "qubes-vpn-one.ovpn", "vpn.persistent", "yes"]
    qube.run(words)
    done = state(qube)
    assert (done["result"], done["changes"]["connections"]) == (True, {"one.ovpn": "new"}), done
    asked = "nmcli -t -f vpn.persistent connection show qubes-vpn-one.ovpn"
    assert qube.run(asked).stdout == "vpn.persistent:no\n"


@pytest.mark.slow
def test_a_profile_that_is_gone_or_not_pinned_takes_its_tunnel_along(qube, state, provider):
    """R33, R35."""
    path = f"{CREDENTIALS}/one.ovpn"
    for break_it, told in (
        (["rm", path], "one.ovpn: not there. In the qube that has the provider's file: qvm-copy"),
        (["sed", "-i", "s/198.51.100.1/198.51.100.9/", path], "198.51.100.9"),
        (["cp", "/bin/true", path], "one.ovpn"),
    ):
        qube.run(break_it)
        dry = state(qube, test=True)
        assert (dry["result"], openvpn(qube) != "") == (False, True)
        done = state(qube)
        assert done["result"] is False, done
        assert told in done["comment"]
        assert done["changes"] == {
            "connections": {"one.ovpn": "removed"},
            "tunnel": {"old": "one.ovpn", "new": "down"},
        }
        time.sleep(6)
        assert openvpn(qube) == ""  # the watchdog does not bring it back either
        qube.write(path, provider.profile(1), 0o600)
        assert state(qube)["result"] is True


@pytest.mark.slow
def test_without_an_open_killswitch_there_is_no_tunnel(qube, state):
    """R41."""
    qube.run([PROGRAM, "down"])
    qube.run(["/usr/lib/qubes-vpn/killswitch", "close"])
    done = state(qube)
    assert (done["result"], done["changes"]) == (False, {})
    assert "the killswitch is closed: no tunnel without it" in done["comment"]
    assert qube.run([PROGRAM, "up"], check=False).returncode == 1
    qube.run("nft delete table inet qubes_vpn; printf one.ovpn >/run/qubes-vpn/wish")
    assert "absent" in state(qube)["comment"]
    time.sleep(8)
    assert openvpn(qube) == ""
    qube.run(["/usr/lib/qubes-vpn/killswitch", "load"])
    assert state(qube)["result"] is True


def test_a_template_without_it_is_told(qube, state):
    qube.run(["mv", PROGRAM, "/run/aside"])
    try:
        told = state(qube)["comment"]
    finally:
        qube.run(["mv", "/run/aside", PROGRAM])
    assert told.startswith("this qube's template has no tunnel: apply the formula to the template")
