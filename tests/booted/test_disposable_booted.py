# SPDX-License-Identifier: GPL-2.0-or-later
"""A disposable VPN qube, booted (R85): configured in sys-vpn-dvm, started as sys-vpn."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from in_qube import run_in
from provider import PASSWORD, USER, Provider
from tunnelled import CREDENTIALS, PROGRAM, put_profiles, said, state_functions, template, up

import qubes_vpn_model
import qubes_vpn_part
import qubes_vpn_plan
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted, Disposable

SERVERS = ("198.51.100.1", "198.51.100.2")
TUNNEL = {
    "kind": "openvpn",
    "profile": "one.ovpn",
    "profiles": ["two.ovpn"],
    "endpoints": [f"{server}:1194/udp" for server in SERVERS],
    "disposable": True,
}
MODEL = qubes_vpn_model.build({"tunnels": {"sys-vpn": TUNNEL}})
NO_TUNNEL = "No tunnel is made in sys-vpn-dvm, which has no netvm. Each start of sys-vpn copies "

States = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def provider(lab: Booted, tmp_path_factory: pytest.TempPathFactory) -> Provider:
    made = Provider(tmp_path_factory.mktemp("provider"), lab.internet)
    made.serve(1)
    return made


@pytest.fixture(scope="module")
def home(lab: Booted) -> AppVM:
    on = services("sys-vpn-dvm")
    made = lab.appvm("sys-vpn-dvm", template(lab), provides=False, services=on, online=False)
    made.start()
    return made


def services(qube: str) -> list[str]:
    """What dom0 switches on in it."""
    steps = qubes_vpn_plan.plan(MODEL)
    features = next(step.args["features"] for step in steps if step.id == f"{qube}: settings")
    return [feature.removeprefix("service.") for feature in features]


@pytest.fixture(scope="module")
def apply(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., States]:
    """The states of sys-vpn-dvm's part of the pillar, in their order, up to one that fails."""
    functions = state_functions(tmp_path_factory.mktemp("salt"))
    _, states = qubes_vpn_part.part(MODEL, "sys-vpn-dvm")

    def run(qube: AppVM, test: bool = False) -> States:
        done: States = {}
        for name, args in states.items():
            function = functions[test][f"qubes_vpn.{name}"]
            done[name] = run_in(qube, lambda function=function, args=args: dict(function(**args)))
            if done[name]["result"] is False:
                break
        assert (USER in str(done), PASSWORD in str(done), "BEGIN" in str(done)) == (False,) * 3
        return done

    return run


@pytest.fixture(scope="module")
def configured(home: AppVM, apply: Callable[..., States], provider: Provider) -> AppVM:
    put_profiles(home, provider)
    assert all(one["result"] for one in apply(home).values())
    return home


@pytest.fixture(scope="module")
def tunnel(lab: Booted, configured: AppVM) -> Disposable:
    made = lab.disposable("sys-vpn", configured, services("sys-vpn"))
    made.start()
    up(made, "one.ovpn")
    return made


def test_its_home_is_configured_without_a_network(home, apply, provider):
    """A missing profile is a failure, a missing network is none; what is told is done."""
    done = apply(home)
    assert (done["killswitch"]["result"], done["tunnel"]["result"]) == (True, False), done
    assert "credentials/one.ovpn: not there" in done["tunnel"]["comment"]
    home.run("rm -r /rw/config/vpn")  # as if it were the first time
    put_profiles(home, provider)
    home.run("/usr/lib/qubes-vpn/killswitch load", check=False)
    dry, real = apply(home, test=True), apply(home)
    for name in ("killswitch", "tunnel"):
        assert (dry[name]["result"], real[name]["result"]) == (None, True), (dry, real)
        assert dry[name]["changes"] == real[name]["changes"] != {}
    assert list(real["tunnel"]["changes"]) == ["/rw/config/vpn/tunnel.conf"]
    assert dry["tunnel"]["comment"].startswith(
        f"sys-vpn would start with one.ovpn on tun0. {NO_TUNNEL}"
    )
    assert real["tunnel"]["comment"].startswith(
        f"sys-vpn starts with one.ovpn on tun0. Ready as well: two.ovpn. {NO_TUNNEL}"
    )
    for test in (True, False):
        again = apply(home, test)
        assert [(one["result"], one["changes"]) for one in again.values()] == [(True, {})] * 3
    assert real["dnat_dns"]["comment"].endswith("In sys-vpn clients' DNS follows its tunnel.")


def test_nothing_looks_for_a_tunnel_in_its_home(configured):
    """Also after a start by hand: no NetworkManager, no watchdog, no copy of the secrets."""
    configured.stop()
    configured.start()
    assert configured.failed() == []
    for unit in ("NetworkManager", "qubes-vpn-watch", "qubes-vpn-tunnel"):
        assert configured.run(["systemctl", "is-active", unit], check=False).stdout == "inactive\n"
    assert configured.run("ls /run/qubes-vpn /run/NetworkManager", check=False).stdout == ""
    assert configured.run("ls /sys/class/net").stdout == "lo\n"


def test_it_comes_up_by_itself_in_the_disposable(lab, tunnel):
    """Closed but for its tunnel, with its credentials root's alone."""
    client = lab.client("work", netvm=tunnel)
    assert tunnel.failed() == []
    assert (said(tunnel)["killswitch"], said(tunnel)["problems"]) == ("open", [])
    assert client.run("ping -c1 -W3 -n 10.64.1.1", check=False).returncode == 0
    assert client.run("ping -c1 -W1 -n 198.51.100.2", check=False).returncode == 0
    tunnel.run([PROGRAM, "down"])
    assert client.run("ping -c1 -W1 -n 198.51.100.2", check=False).returncode
    shown = tunnel.run(f"stat -c '%a %U' {CREDENTIALS} {CREDENTIALS}/*").stdout.splitlines()
    assert shown == ["700 root"] + ["600 root"] * 4
    seen = tunnel.run(
        ["runuser", "-u", "nobody", "--", "cat", f"{CREDENTIALS}/one.auth"], check=False
    )
    assert (seen.stdout, "Permission denied" in seen.stderr) == ("", True)
    everything = tunnel.journal() + tunnel.run("ps axww -o args").stdout + json.dumps(said(tunnel))
    assert (USER in everything, PASSWORD in everything) == (False, False)


@pytest.mark.slow
def test_it_forgets_and_its_home_does_not(home, tunnel):
    """What is changed in the disposable is lost, what is changed in its home is taken over."""
    tunnel.run("nmcli connection modify qubes-vpn-one.ovpn connection.autoconnect yes")
    tunnel.run("touch /rw/config/new /etc/new; echo bad >/rw/config/vpn/endpoints.txt")
    tunnel.run(["rm", f"{CREDENTIALS}/one.ovpn"])
    tunnel.stop()
    home.start()
    assert not home.exists("/rw/config/new")
    home.run(["mv", f"{CREDENTIALS}/two.auth", f"{CREDENTIALS}/two.txt"])
    tunnel.start()
    assert not home.running
    up(tunnel, "one.ovpn")
    assert [path for path in ("/rw/config/new", "/etc/new") if tunnel.exists(path)] == []
    assert tunnel.run("ls /rw/config/NM-system-connections").stdout.count("qubes-vpn") == 0
    assert tunnel.exists(f"{CREDENTIALS}/two.txt")
