# SPDX-License-Identifier: GPL-2.0-or-later
"""Qubes' own rules for a client's list, in real nftables, against what is said of it (R11, R50).

With QUBES_SRC: the worker of qubes-core-agent-linux writes the rules, and a question is sent
through them, to the addresses that the netvm's resolv.conf has by then.
"""

import importlib
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
from core.test_client_dns import LISTS
from in_qube import run_in, skip_where_impossible

import qubes_vpn_client_dns
from qubes_vpn_formula.lab.agent import checkout
from qubes_vpn_formula.lab.qube import Qube

TUNNEL = ("100.64.0.7",)
CHAINS = """
table ip qubes-firewall
delete table ip qubes-firewall
table ip qubes-firewall {
  set dns-addr { type ipv4_addr; }
  chain client { }
  chain out {
    type filter hook output priority 0
    jump client
  }
}
"""


@pytest.fixture
def source():
    if (found := checkout.find()) is None:
        pytest.skip("QUBES_SRC names no folder with qubes-core-agent-linux")
    skip_where_impossible()
    return found


def passes(source, rules, addresses):
    """Whether a question gets through to one of *addresses*, those of the netvm's resolv.conf."""
    sys.modules["qubesdb"] = SimpleNamespace(QubesDB=lambda: None)
    sys.path.insert(0, str(source))
    worker = importlib.import_module("qubesagent.firewall").NftablesWorker()
    worker.dns_addresses = lambda family=None: iter(addresses)
    worker.resolve_dns = lambda _fqdn, _family: [(0, 0, 0, "", ("192.0.2.7", 0))]
    # As qubesd writes them for a qube's IPv4 address (qubes/firewall.py, qdb_entries).
    plain = [rule.split(" comment=")[0].split(" expire=")[0].split() for rule in rules]
    fields = [dict(word.split("=", 1) for word in words) for words in plain]
    fields = [rule for rule in fields if "dst6" not in rule] + [{"action": "drop"}]
    text, _ = worker.prepare_rules("client", fields, 4)
    subprocess.run(["nft", "-f", "-"], input=CHAINS + text, text=True, check=True)
    return any(map(_sent, addresses))


def _sent(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.sendto(b"question", (address, 53))
        except PermissionError:
            return False
        return True


def test_what_is_said_is_what_happens(source):
    with Qube("netvm") as qube:
        qube.run("ip link add eth0 type veth peer name far; ip link set far up; ip link set lo up")
        qube.run("ip link set eth0 up; ip address add 192.0.2.99/24 dev eth0")
        qube.run("ip route add default dev eth0")
        ways = {"firewall": qubes_vpn_client_dns.VIRTUAL, "tunnel": TUNNEL}
        for role, addresses in ways.items():
            for name, (rules, *_) in LISTS.items():
                said = qubes_vpn_client_dns.lack(rules, "x", role)
                through = run_in(qube, passes, source, rules, addresses)
                accepts = any(rule.startswith("action=accept") for rule in rules)
                assert through == (said is None and accepts), (role, name)
