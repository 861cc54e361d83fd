# SPDX-License-Identifier: GPL-2.0-or-later
"""A disposable tunnel in dom0 (R85): sys-vpn is made anew from sys-vpn-dvm at each start."""

import pytest
from pillars import PILLARS, WIREGUARD
from snapshots import netvms, own

TUNNEL = {**WIREGUARD, "disposable": True}
PILLAR = {**PILLARS["dns"], "tunnels": {"sys-vpn": TUNNEL}}
RULES = ["action=accept dst4=192.0.2.1/32 proto=udp dstports=51820-51820", "action=drop"]
FEATURES = {"service.qubes-vpn": "1", "service.network-manager": "1"}


@pytest.mark.parametrize("release", ["4.3", "4.2"])
def test_it_is_made_from_an_offline_qube_with_its_list(states, embedded, after_each_write):
    dry = states.run(PILLAR, test=True)
    assert embedded.writes() == []
    real = states.run(PILLAR)
    assert all(state.result for state in real.values()), list(real.values())[-1]
    assert {name: state.changes for name, state in dry.items()} == {
        name: state.changes for name, state in real.items()
    }
    end = embedded.snapshot()
    home, tunnel = end["qubes"]["sys-vpn-dvm"], end["qubes"]["sys-vpn"]
    assert (home["klass"], tunnel["klass"]) == ("AppVM", "DispVM")
    assert own(end, "sys-vpn")["template"] == "sys-vpn-dvm"
    assert own(end, "sys-vpn-dvm")["template"] == "t-vpn"
    assert own(end, "sys-vpn-dvm")["template_for_dispvms"] is True
    assert home["rules"] == tunnel["rules"] == RULES
    assert FEATURES.keys() & home["features"].keys() == {"service.qubes-vpn"}
    assert FEATURES.items() <= tunnel["features"].items()
    assert (netvms(end)["sys-vpn-dvm"], netvms(end)["sys-vpn"]) == (None, "sys-net")
    assert own(end, "sys-vpn")["autostart"] is True
    for snapshot in after_each_write:
        if "sys-vpn" in snapshot["qubes"]:
            assert netvms(snapshot)["sys-vpn-dvm"] is None
            assert snapshot["qubes"]["sys-vpn"]["rules"] == RULES  # from the first moment on
    embedded.forget_calls()
    assert all(state.changes == {} for state in states.run(PILLAR).values())
    assert embedded.writes() == []


def test_what_it_is_made_from_is_taken_off_the_net(states, embedded, after_each_write):
    """One that somebody made before, with a netvm: before it may have anything that is ours."""
    embedded.call("dom0", "admin.vm.Create.AppVM", "", b"name=sys-vpn-dvm label=red")
    after_each_write.clear()
    real = states.run(PILLAR)
    assert all(state.result for state in real.values()), list(real.values())[-1]
    for snapshot in after_each_write:
        if own(snapshot, "sys-vpn-dvm").get("template_for_dispvms"):
            assert netvms(snapshot)["sys-vpn-dvm"] is None


def test_a_qube_of_that_name_is_never_replaced(states, embedded):
    states.run(PILLARS["dns"])
    before = embedded.snapshot()["qubes"]["sys-vpn"]
    for test in (True, False):
        last = list(states.run(PILLAR, test=test).values())[-1]
        assert (last.result, last.changes) == (False, {})
        assert last.comment == (
            "'sys-vpn' exists (AppVM), and the pillar wants a disposable of it. Choose "
            "another name in the pillar, or rename that one. Or write disposable: false. It is "
            "never replaced: what is in it would be lost."
        )
    assert embedded.snapshot()["qubes"]["sys-vpn"] == before


def test_nor_is_a_disposable_by_a_qube(states, embedded):
    states.run(PILLAR)
    before = embedded.snapshot()["qubes"]["sys-vpn"]
    last = list(states.run(PILLARS["dns"]).values())[-1]
    assert last.result is False
    assert "'sys-vpn' exists (DispVM), and the pillar wants an AppVM of it." in last.comment
    assert "write tunnels.sys-vpn.disposable: true" in last.comment
    assert embedded.snapshot()["qubes"]["sys-vpn"] == before


def test_one_of_another_template_gets_ours(states, embedded):
    """If it is halted; a running one is refused, as with every template."""
    embedded.call("dom0", "admin.vm.Create.DispVM", "default-dvm", b"name=sys-vpn label=red")
    embedded.call("sys-vpn", "admin.vm.Start")
    assert "can change only while it is halted" in list(states.run(PILLAR).values())[-1].comment
    embedded.call("sys-vpn", "admin.vm.Kill")
    assert all(state.result for state in states.run(PILLAR).values())
    assert own(embedded.snapshot(), "sys-vpn")["template"] == "sys-vpn-dvm"


def test_an_undo_keeps_both_and_removes_them_when_asked_to(states, embedded):
    states.run(PILLAR)
    assert all(state.result for state in states.undo().values())
    assert netvms(embedded.snapshot())["sys-vpn"] is None
    done = states.undo(remove=True)
    assert all(state.result for state in done.values()), list(done.values())[-1]
    assert not {"sys-vpn", "sys-vpn-dvm"} & embedded.snapshot()["qubes"].keys()
