# SPDX-License-Identifier: GPL-2.0-or-later
"""Our restatement of what Qubes does in a qube (facts 5, 6).

Whether it is like the real one is for test_agent_real.py, with QUBES_SRC.
"""

import pytest
from conftest import MakeLab
from peer import seen_as, server

from qubes_vpn_formula.lab import chains
from qubes_vpn_formula.lab.machine import PUBLIC, SERVER, Lab

_NOTE = "#!/bin/sh\necho {} >>/run/order\n"


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """A firewall qube with two clients, in clear."""
    clients = (
        chains.Member("client-1", "sys-firewall", provides=False),
        chains.Member("client-2", "sys-firewall", provides=False),
    )
    return make_lab((chains.SYS_NET, chains.Member("sys-firewall", "sys-net"), *clients))


@pytest.fixture
def hooked(lab: Lab) -> Lab:
    """With scripts that write down that they ran."""
    scripts = {
        "/rw/config/qubes-firewall-user-script": "user",
        "/rw/config/qubes-firewall.d/10-own": "own",
        "/etc/qubes/qubes-firewall.d/20-template": "template",
    }
    for path, name in scripts.items():
        lab.qubes["sys-firewall"].write(path, _NOTE.format(name), 0o755)
    lab.qubes["sys-firewall"].write("/rw/config/qubes-firewall.d/20-not-executable", "false\n")
    return lab


def _order(lab: Lab) -> list[str]:
    return lab.qubes["sys-firewall"].read("/run/order").split()


def test_hooks_run_at_each_start_and_not_at_a_reload(hooked: Lab) -> None:
    """R41: template's, own, then the user's script."""
    firewall = hooked.qubes["sys-firewall"]
    hooked.boot("sys-firewall")
    assert _order(hooked) == ["template", "own", "user"]
    hooked.agent.firewall_reload(firewall)
    assert len(_order(hooked)) == 3
    hooked.agent.firewall_restart(firewall)
    assert _order(hooked) == ["template", "own", "user"] * 2


def test_with_custom_persist_only_the_templates_hook_runs(hooked: Lab) -> None:
    """R46."""
    hooked.qubes["sys-firewall"].qubesdb["/qubes-service/custom-persist"] = "1"
    hooked.boot("sys-firewall")
    assert _order(hooked) == ["template"]


def test_a_client_cannot_take_another_ones_address(lab: Lab) -> None:
    lab.start()
    other = lab.address("client-2")
    # its own rules would translate the address back
    lab.qubes["client-1"].run(["nft", "flush", "chain", "ip", "qubes", "postrouting"])
    lab.qubes["client-1"].run(["ip", "address", "add", f"{other}/32", "dev", "eth0"])
    ping = ["ping", "-c1", "-W1", "-n", SERVER[4]]
    assert lab.qubes["client-1"].run([*ping, "-I", other], check=False).returncode
    assert lab.qubes["client-1"].run([*ping, "-I", lab.address("client-1")]).returncode == 0


def test_clients_rules_are_enforced_in_their_netvm(lab: Lab) -> None:
    """R12: from the next packet on, for one client, and a dead service changes nothing."""
    lab.start()
    with server(lab):
        lab.allow("client-1", ["action=accept proto=udp"])
        assert seen_as(lab, "client-1", 4, patience=0.5) == ""
        assert seen_as(lab, "client-1", 6, patience=0.5) == ""
        assert seen_as(lab, "client-2", 4) == PUBLIC[4]
        lab.allow("client-1", [f"action=accept proto=tcp dst4={SERVER[4]}/32 dstports=8080-8080"])
        assert seen_as(lab, "client-1", 4) == PUBLIC[4]
        assert seen_as(lab, "client-1", 6, patience=0.5) == ""
        lab.agent.firewall_kill(lab.qubes["sys-firewall"])
        lab.allow("client-1", ["action=accept"])
        assert seen_as(lab, "client-1", 6, patience=0.5) == ""


def test_nothing_is_forwarded_before_qubes_network(lab: Lab) -> None:
    lab.start(without={"sys-firewall"})
    lab.boot("sys-firewall", without={"qubes-network.service"})
    with server(lab):
        assert seen_as(lab, "client-1", 4, patience=0.5) == ""
        lab.agent.network(lab.qubes["sys-firewall"])
        assert seen_as(lab, "client-1", 4) == PUBLIC[4]


def test_dnat_dns_follows_resolv_conf_and_loses_what_was_put_there(lab: Lab) -> None:
    """R55: why no rule of ours is in Qubes' chain."""
    lab.boot("sys-firewall")
    qube = lab.qubes["sys-firewall"]
    rule = "ip daddr 10.139.1.1 udp dport 53 dnat to {}"
    chain = "nft list chain ip qubes dnat-dns"
    assert rule.format("10.139.1.1") in qube.run(chain).stdout
    qube.run("nft add rule ip qubes dnat-dns udp dport 5353 drop")
    qube.write("/etc/resolv.conf", "nameserver 9.9.9.9\n")
    lab.agent.dnat(qube)
    assert rule.format("9.9.9.9") in qube.run(chain).stdout
    assert "5353" not in qube.run(chain).stdout


def test_clients_dns_gets_to_the_providers_server(lab: Lab) -> None:
    """Through the translation in each netvm on the way."""
    lab.start()
    answer = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
    answer += "s.bind(('203.0.113.53', 53)); print('on', flush=True);"
    answer += "d, a = s.recvfrom(99); s.sendto(d[::-1], a)"
    ask = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3);"
    ask += "s.sendto(b'abc', ('10.139.1.1', 53)); print(s.recv(99))"
    process = lab.internet.popen(["python3", "-c", answer], stdout=-1, text=True)
    assert process.stdout.readline() == "on\n"
    process.stdout.close()
    assert lab.qubes["client-1"].run(["python3", "-c", ask]).stdout == "b'cba'\n"


def test_a_client_that_goes_and_comes_back(lab: Lab) -> None:
    lab.start()
    lab.unplug("client-1")
    lab.agent.uplink(lab.qubes["client-1"], lab.plug("client-1"))
    with server(lab):
        assert seen_as(lab, "client-1", 4) == PUBLIC[4]
        assert seen_as(lab, "client-1", 6) == PUBLIC[6]
