# SPDX-License-Identifier: GPL-2.0-or-later
"""Every named topology on a machine with Whonix, by real Salt: foretold, run, and run again (R88).

All 72 ways from one to another are in tests/order/test_switching.py, without Salt.
"""

import pytest
from pillars import WIREGUARD
from snapshots import in_clear, netvms, way

pytestmark = pytest.mark.one_salt

schema = pytest.importorskip("qubes_vpn_schema", reason="needs the core installed")

BY_TCP = {"kind": "openvpn", "profile": "tcp.ovpn", "endpoints": ["192.0.2.1:443/tcp"]}
ENTRY = {**WIREGUARD, "endpoints": ["198.51.100.9:51820/udp"], "upstream": "sys-net"}
#: The way from the clients of each, and what is written beside its name.
WAYS = {
    "dns": ("sys-firewall sys-dns sys-vpn sys-net", {}),
    "simple": ("sys-vpn sys-firewall sys-net", {}),
    "sandwich": ("sys-firewall sys-dns sys-vpn sys-firewall-uplink sys-net", {}),
    "parallel": ("sys-firewall sys-dns sys-vpn sys-net", {"outside_vpn": ["untrusted"]}),
    "multihop": (
        "sys-firewall sys-dns sys-vpn sys-entry sys-net",
        {"tunnels": {"sys-vpn": WIREGUARD, "sys-entry": ENTRY}},
    ),
    "tor-over-vpn": ("sys-whonix sys-firewall sys-vpn sys-net", {}),
    "vpn-over-tor": (
        "sys-vpn sys-firewall-tor sys-whonix sys-net",
        {"tunnels": {"sys-vpn": BY_TCP}},
    ),
    "dns-tor-vpn": ("sys-firewall sys-dns sys-whonix sys-vpn sys-net", {}),
    "mixed": ("sys-firewall sys-dns sys-vpn sys-net", {"outside_vpn": ["untrusted"]}),
}


def pillar(topology):
    head, more = WAYS[topology][0].split()[0], WAYS[topology][1]
    qubes = {"work": head, "personal": "sys-whonix" if topology == "mixed" else head}
    qubes |= dict.fromkeys(more.get("outside_vpn", ()), "sys-firewall-novpn")
    routes = {"routes": {"qubes": qubes}, "vaults": ["vault"]}
    return {"topology": topology, "tunnels": {"sys-vpn": WIREGUARD}, **routes, **more}


def refused(done):
    return [state.comment for state in done.values() if state.result is False]


def test_there_is_no_other():
    assert {*WAYS} == {*schema.TOPOLOGIES} - {"custom"}


@pytest.mark.usefixtures("whonix_gateway")
@pytest.mark.parametrize("topology", WAYS)
def test_a_topology(states, embedded, after_each_write, topology):
    """R04, R05, R06, R69, R88, R92."""
    wanted, online = pillar(topology), {"work", "personal", "untrusted"}
    for name in ("work", "untrusted", "sys-whonix"):
        embedded.call(name, "admin.vm.Start")
    before, gateway = in_clear(embedded.snapshot()), embedded.snapshot()["qubes"]["sys-whonix"]
    embedded.forget_calls()
    dry = states.run(wanted, test=True)
    assert embedded.writes() == []
    after_each_write.clear()
    real = states.run(wanted)
    assert refused(real) == []
    assert [state.changes for state in dry.values()] == [state.changes for state in real.values()]
    let_out = {name for snapshot in after_each_write for name in in_clear(snapshot) - before}
    assert let_out <= {"sys-firewall", "sys-firewall-novpn", "sys-firewall-uplink"}
    wiring = netvms(embedded.snapshot())
    assert " ".join(way("work", wiring)[1:]) == WAYS[topology][0]
    assert in_clear(embedded.snapshot()) & online == {*wanted.get("outside_vpn", ())}
    after = embedded.snapshot()["qubes"]["sys-whonix"]
    changed = {key for key in after if after[key] != gateway[key]} - {"link", "qubesdb"}
    assert changed <= {"properties"}
    changed = {key: value for key, value in after["properties"].items() if key != "netvm"}
    assert changed == {k: v for k, v in gateway["properties"].items() if k != "netvm"}
    embedded.forget_calls()
    assert [state.changes for state in states.run(wanted).values() if state.changes] == []
    assert embedded.writes() == []


@pytest.mark.parametrize("topology", ["tor-over-vpn", "vpn-over-tor", "dns-tor-vpn", "mixed"])
def test_without_whonix_it_is_said_before_anything_is_changed(states, embedded, topology):
    """R08: the gateway is never made."""
    embedded.forget_calls()
    for test in (True, False):
        (said,) = refused(states.run(pillar(topology), test=test))[:1]
        assert "there is no qube 'sys-whonix'" in said
    assert embedded.writes() == []
