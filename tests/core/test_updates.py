# SPDX-License-Identifier: GPL-2.0-or-later
"""R07, R14. Updates: outside the VPN only by choice; who was not up to date for long."""

import pytest

import qubes_vpn_audit
import qubes_vpn_model
import qubes_vpn_plan
import qubes_vpn_updates

from .audit_machines import well
from .pillars import pillar

#: An hour before the inventory was taken, and eight days.
NOW, LONG_AGO = "2026-03-01 11:00:00", "2026-02-21 11:00:00"


def build(**keys):
    return qubes_vpn_model.build(pillar(**keys))


def overdue(days=7, **features):
    machine = well().no_feature("debian", "last-updates-check")
    for key, value in features.items():
        machine.feature("debian", key.replace("_", "-"), value)
    return dict(qubes_vpn_updates.overdue(machine.data, days)).get("debian")


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({}, "nobody has looked for updates"),
        ({"last_updates_check": NOW}, None),
        ({"last_updates_check": LONG_AGO}, "it was up to date 8 days ago"),
        # Found none this morning, and installed some long before.
        ({"last_updates_check": NOW, "last_update": LONG_AGO, "updates_available": ""}, None),
        # A qube of it, by its own netvm, tells that some wait: nothing got to the template.
        (
            {"last_updates_check": NOW, "updates_available": "1"},
            "updates wait, and none were ever noted as installed",
        ),
        (
            {"last_updates_check": NOW, "last_update": LONG_AGO, "updates_available": "1"},
            "updates wait, and it was up to date 8 days ago",
        ),
        ({"last_updates_check": NOW, "last_update": NOW, "updates_available": "1"}, None),
        (
            {"last_updates_check": "2031-01-01 00:00:00"},
            "the note of when it was up to date is in the future: a clock was wrong",
        ),
        ({"last_updates_check": "yesterday"}, "nobody has looked for updates"),
        ({"skip_update": "1"}, None),
        ({"skip_update": ""}, "nobody has looked for updates"),
        ({"os": "Windows"}, None),
        ({"os": "Linux"}, "nobody has looked for updates"),
    ],
)
def test_when_a_template_was_up_to_date(features, said):
    assert overdue(**features) == said


def test_the_days_are_the_pillars():
    assert overdue(days=8, last_updates_check=LONG_AGO) is None
    machine = well().feature("debian", "last-updates-check", LONG_AGO)
    found = {}
    for days in (8, 7):
        model = build(updates={"check_days": days})
        report = qubes_vpn_audit.audit(machine.data, model)
        found[days] = [each.qube for each in report.findings if each.rule.id == "A412"]
    assert found == {8: [], 7: ["debian"]}


@pytest.mark.parametrize("word", ["", "inf", "nan", "-1e400", "soon"])
def test_a_start_time_that_is_none_is_nobodys_age(word):
    machine = well().set("work", "start_time", word)
    assert dict(qubes_vpn_updates.long_running(machine.data, 30)) == {}


@pytest.mark.parametrize("power", ["Running", "Paused", "Halted"])
@pytest.mark.parametrize("word", [None, "", "nan", "-1e400", "soon"])
def test_who_runs_since_nobody_knows_when_is_told(word, power):
    """R14. Only a qube that is off has no such time."""
    machine = well()
    if word is not None:
        machine.set("work", "start_time", word)
    machine.data["qubes"]["work"]["power"] = power
    machine.data["qubes"]["dom0"]["power"] = "Running"  # has no such property
    found = qubes_vpn_audit.audit(machine.data, build()).findings
    said = [(each.qube, each.detail) for each in found if each.rule.id == "A413"]
    known = [("work", "since when it has been running is not known")]
    assert said == (known if power != "Halted" else [])


# --- outside the VPN by choice

OUTSIDE = {"templates": "sys-net", "dom0": "sys-net", "outside_vpn": ["templates", "dom0"]}


def steps(**updates):
    return {step.id: step.args for step in qubes_vpn_plan.plan(build(updates=updates))}


def test_only_what_is_chosen_may_be_outside():
    """R05, R07. The clock may not, and neither may one of the two when the other one is named."""
    by_id = steps(**OUTSIDE)
    assert by_id["templates' updates by sys-net"]["outside"] is True
    assert by_id["updatevm: sys-net"]["outside"] is True
    assert by_id["ways round the VPN"]["outside"] == {"templates": "sys-net", "dom0": "sys-net"}
    assert "sys-net: runs the updates proxy" not in by_id  # the uplink is never changed
    mixed = steps(templates="sys-net", dom0="sys-firewall", outside_vpn=["templates"])
    assert "outside" not in mixed["updatevm: sys-firewall"]
    assert not any("outside" in args for args in steps(templates="sys-firewall").values())


def test_another_qube_in_clear_than_the_chosen_one_is_a_finding():
    """R07. Chosen is a qube, and not that it is in clear."""
    model = build(updates=OUTSIDE, firewalls={"sys-firewall": {}, "fw": {"upstream": "sys-net"}})
    machine = well().add("fw", netvm="sys-net", provides_network=True).named("updatevm", "fw")
    machine.policy("qubes.UpdatesProxy * @type:TemplateVM @default allow target=fw")
    found = {
        each.rule.id: each.qube for each in qubes_vpn_audit.audit(machine.data, model).findings
    }
    assert (found.get("A301"), found.get("A304"), found.get("A313")) == ("fw", "fw", None)
