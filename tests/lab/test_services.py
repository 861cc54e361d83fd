# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0 asks a VPN qube with real rules and a real tunnel by its services (R67)."""

import json

import pytest
from asking import asking
from in_qube import skip_where_impossible

import qubes_vpn_told as told
from qubes_vpn_formula.lab import chains, services
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.machine import Lab
from qubes_vpn_formula.lab.tunnels import Kind


class Installed(Ours):
    """Ours, with dom0's services."""

    def files(self):
        return super().files() | services.files()


@pytest.fixture(scope="module")
def lab():
    skip_where_impossible()
    with Lab(chains.simple(Kind("wireguard")), Installed()) as made:
        made.start()
        made.qubes["client-1"].run("ping -c1 -W1 203.0.113.80")
        yield made


@pytest.fixture
def ask(lab, embedded, tmp_path, monkeypatch):
    connect = asking(embedded, monkeypatch, tmp_path, lab.qubes["sys-vpn"])
    import qubes_vpn_ask

    def asked(service, form=None, **more):
        data = qubes_vpn_ask.ask(
            connect(), "work", f"qubes-vpn.{service}", most=4 * 1024**2, **more
        )
        return told.read(data, form) if form else data

    asked.NoAnswer = qubes_vpn_ask.NoAnswer
    return asked


def test_status(ask, lab):
    found = ask("Status", told.STATUS)
    assert (found["role"], found["forwarding"]) == ("tunnel", True)
    assert found["killswitch"]["state"] == "open"
    assert (found["killswitch"]["drift"], found["killswitch"]["endpoints"]) == (0, 1)
    tunnel = found["tunnel"]
    assert (tunnel["state"], tunnel["interface"]) == ("up", lab.tunnels["sys-vpn"].device)
    assert 0 <= tunnel["handshake"] < 180
    host, _, _ = str(lab.tunnels["sys-vpn"].endpoint).partition(":")
    assert tunnel["server"].startswith(host)
    assert tunnel["received"] > 0


def test_planted_faults_are_facts(ask, lab):
    qube = lab.qubes["sys-vpn"]
    qube.write("/rw/config/rc.local", "#!/bin/sh\r\necho hello\r\n", 0o644)
    qube.write("/rw/config/qubes-firewall-user-script", "#!/bin/sh\nif true\n", 0o755)
    qube.run("nft add rule inet qubes_vpn forward accept; echo 0 >/proc/sys/net/ipv4/ip_forward")
    try:
        found = ask("Status", told.STATUS)
        assert found["scripts"] == {"idle": 1, "dos": 1, "broken": 1}
        assert found["killswitch"]["state"] == "altered"
        assert found["killswitch"]["drift"] > 0
        assert found["forwarding"] is False
    finally:
        qube.run("echo 1 >/proc/sys/net/ipv4/ip_forward; rm /rw/config/rc.local")
        qube.run("rm /rw/config/qubes-firewall-user-script; /usr/lib/qubes-vpn/killswitch load")
    assert ask("Status", told.STATUS)["killswitch"]["state"] == "open"


def test_rules_and_drops(ask):
    rules = json.loads(ask("Rules"))["nftables"]
    assert any(one.get("table", {}).get("name") == "qubes_vpn" for one in rules)
    assert ask("Drops", told.DROPS)["log"] is False


def test_nobody_else_is_served(ask, lab, tmp_path):
    qube = lab.qubes["sys-vpn"]
    for who in ("work", "", "dom0\nx"):
        words = ["env", f"QREXEC_REMOTE_DOMAIN={who}", "/etc/qubes-rpc/qubes-vpn.Status"]
        done = qube.run(words, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert "only dom0 may" in done.stderr
    done = qube.run(["/etc/qubes-rpc/qubes-vpn.Disconnect"], check=False)
    assert (done.returncode, done.stdout) == (1, "")
    with pytest.raises(ask.NoAnswer):
        ask("Status+x")


def test_without_a_tunnel_of_networkmanagers_nothing_is_switched(ask):
    for service in ("Connect", "Disconnect", f"Switch+{told.profile_id('se.conf')}"):
        found = ask(service, told.DONE)
        assert (found["done"], found["why"]) == (False, "no-tunnel")
