# SPDX-License-Identifier: GPL-2.0-or-later
"""qubes_vpn.restarts in dom0: who runs on an old template, in which order, who loses what (R14)."""

import pytest

from qubes_vpn_formula.embedded.qubesd import property_table

pytestmark = pytest.mark.one_salt
TEMPLATE = "fedora-42-xfce"
CHANGED = "its template has changed since it was started"


def test_after_an_update_of_a_template(modules, embedded):
    """Upstream first; one question for each qube that runs; nothing is restarted by it."""
    embedded.call("work", "admin.vm.Start")  # and its netvms
    restarts = modules.qubes_vpn.restarts
    assert restarts() == "Nothing is to be restarted."
    embedded.call(TEMPLATE, "admin.vm.Start")
    (on,) = restarts(form="data")["restarts"]
    assert (on["name"], on["how"]) == (TEMPLATE, f"qvm-shutdown --wait {TEMPLATE}")
    embedded.call(TEMPLATE, "admin.vm.Kill")

    embedded.forget_calls()
    found = restarts(form="data")["restarts"]
    asked = [call.dest for call in embedded.calls() if call.method == "admin.vm.volume.Info"]
    assert sorted(asked) == ["sys-firewall", "sys-net", "work"]
    assert embedded.writes() == []
    assert [(each["name"], each["why"], each["behind"]) for each in found] == [
        ("sys-net", (CHANGED,), ("sys-firewall", "work")),
        ("sys-firewall", (CHANGED,), ("work",)),
        ("work", (CHANGED,), ()),
    ]
    assert restarts().splitlines()[1:5] == [
        "",
        f"1. sys-net: {CHANGED}",
        "   Offline meanwhile, with broken connections: sys-firewall, work",
        "   qvm-shutdown --wait --force sys-net && qvm-start sys-net",
    ]
    assert found[-1]["how"] == "qvm-shutdown --wait work && qvm-start work"

    for name in ("work", "sys-firewall", "sys-net"):
        embedded.call(name, "admin.vm.Kill")
    embedded.call("work", "admin.vm.Start")
    assert restarts() == "Nothing is to be restarted."


def test_a_disposable_is_asked_for_what_it_is_made_from(modules, embedded):
    """A login that was changed in the home of a disposable tunnel is not in what runs (R85)."""
    embedded.call("dom0", "admin.vm.Create.DispVM", "default-dvm", b"name=sys-vpn label=red")
    embedded.call("sys-vpn", "admin.vm.Start")
    assert modules.qubes_vpn.restarts(form="data")["restarts"] == []
    embedded.call("default-dvm", "admin.vm.Start")
    embedded.call("default-dvm", "admin.vm.Kill")
    (found,) = modules.qubes_vpn.restarts(form="data")["restarts"]
    why = ("what it is made from has changed since it was started",)
    assert (found["name"], found["why"]) == ("sys-vpn", why)


def test_who_does_not_say_since_when_it_runs(modules, embedded, monkeypatch):
    """R14. dom0 itself has no such time, and is not asked for it."""
    embedded.call("work", "admin.vm.Start")
    monkeypatch.setattr(property_table, "_today", lambda machine: "")
    assert modules.qubes_vpn.restarts().splitlines() == [
        f"NOT KNOWN {name}: since when it has been running is not known"
        for name in ("sys-firewall", "sys-net", "work")
    ]
    assert modules.qubes_vpn.restarts(form="data")["restarts"] == []


def test_who_cannot_be_asked_is_told(salt_call, embedded):
    embedded.call("work", "admin.vm.Start")
    embedded.fail(dest="work", method="admin.vm.volume.Info", error="StoragePoolException")
    done = salt_call("qubes_vpn.restarts")
    assert done.returncode == 1
    assert done.data.startswith("NOT KNOWN work: its volumes could not be read")
