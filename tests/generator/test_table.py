# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes-vpn table` (R65)."""

import json

from qubes_vpn_formula.cli import main
from qubes_vpn_formula.embedded import dom0

PILLAR = """\
qubes_vpn:
  tunnels:
    sys-vpn: {kind: wireguard, profile: wg.conf, endpoints: [192.0.2.1:51820/udp]}
  firewalls:
    sys-firewall: {}
    sys-firewall-novpn: {upstream: sys-net}
  routes:
    qubes: {untrusted: sys-firewall-novpn}
  outside_vpn: [untrusted]
"""
SHOWN = """\
QUBE              ADDRESS      NETVM         EXIT                            EXIT ADDRESS
default-dvm       10.137.0.5   sys-firewall  IN CLEAR by sys-net             not asked
default-mgmt-dvm  -            -             offline                         -
personal          10.137.0.9   sys-firewall  IN CLEAR by sys-net             not asked
sys-firewall      10.137.0.8   sys-net       IN CLEAR by sys-net             not asked
sys-net           10.137.0.7   -             is the uplink                   not asked
untrusted         10.137.0.11  sys-firewall  IN CLEAR by sys-net, by choice  not asked
vault             -            -             offline                         -
work              10.137.0.10  sys-firewall  IN CLEAR by sys-net             not asked
"""


def test_as_text_and_as_data(tmp_path, capsys):
    pillar = tmp_path / "pillar.sls"
    pillar.write_text(PILLAR)
    assert main(["table", str(pillar), "--embedded", "fresh"]) == 0
    assert capsys.readouterr().out == SHOWN
    assert main(["table", str(pillar), "--embedded", "fresh", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[-1] == {
        "qube": "work",
        "address": "10.137.0.10",
        "netvm": "sys-firewall",
        "exit": "IN CLEAR by sys-net",
        "exit address": "not asked",
    }


def test_bad_input(tmp_path, capsys):
    pillar = tmp_path / "pillar.sls"
    pillar.write_text("qubes_vpn: {topolgy: dns}\n")
    assert main(["table", str(pillar), "--embedded", "fresh"]) == 2
    assert "topolgy" in capsys.readouterr().out


def test_addresses_are_those_of_the_inventory_or_not_known(embedded, tmp_path, capsys):
    """None is made up: an inventory of an earlier version has none."""
    embedded.call("work", "admin.vm.property.Set", "ip", b"10.137.0.77")
    machine = dom0.machine(embedded.path, dry=True)
    import qubes_vpn_inventory

    taken = qubes_vpn_inventory.take(machine, {})
    path = tmp_path / "inventory.json"
    for earlier in (False, True):
        if earlier:
            del taken["more"]
            for qube in taken["qubes"].values():
                qube["properties"].pop("ip", None)
        path.write_text(json.dumps(taken))
        assert main(["table", "--inventory", str(path), "--json"]) == 0
        rows = {row["qube"]: row["address"] for row in json.loads(capsys.readouterr().out)}
        assert rows["work"] == ("not known" if earlier else "10.137.0.77")
        others = {"not known"} if earlier else {address_of(embedded, "personal")}
        assert {rows["personal"]} == others


def address_of(embedded, name):
    return embedded.call(name, "admin.vm.property.Get", "ip").decode().split()[-1]
