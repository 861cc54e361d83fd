# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes_vpn.audit` in dom0: on the machine as it is, before and after a run (R93)."""

import json

import pytest
from pillars import PILLARS

pytestmark = pytest.mark.one_salt


def found(told):
    return {(each["rule"], each["qube"]) for each in told["findings"]}


def test_a_run_of_the_formula_closes_what_the_audit_finds(modules, states, embedded):
    """And what it leaves open, the audit goes on telling."""
    pillar = PILLARS["dns"]
    before = found(modules.qubes_vpn.audit(pillar, format="data"))
    assert {("A101", "work"), ("A102", "dom0"), ("A106", "default-dvm")} <= before
    for state in states.run(pillar).values():
        assert state.result is not False, state.comment
    after = found(modules.qubes_vpn.audit(pillar, format="data"))
    assert not {rule for rule, _ in after} & {"A101", "A102", "A106", "A107", "A201", "A203"}
    assert ("A301", "sys-net") in after


def test_tags_by_which_policy_tells_qubes_apart_are_asked(modules, policy, embedded):
    for tag in ("dev", "others"):
        embedded.call("vault", "admin.vm.tag.Set", tag)
    rule = "qubes.UpdatesProxy * @tag:dev @default allow target=sys-net\n"
    (policy / "20-mine.policy").write_text(rule)
    told = modules.qubes_vpn.audit(PILLARS["dns"], format="data")
    (finding,) = [each for each in told["findings"] if each["rule"] == "A302"]
    assert finding["detail"] == "open to vault"
    assert modules.qubes_vpn.inventory()["qubes"]["vault"]["tags"] == ["dev"]


def test_a_rule_that_goes_before_ours_is_found(modules, states, policy, embedded):
    """R67. By the file and the rule; after ours it says nothing."""
    pillar = PILLARS["dns"]
    states.run(pillar)
    states.services_policy("only dom0 calls")
    for name in ("30-user.policy", "10-mine.policy"):
        (policy / name).write_text("# for my dev qube\n* * dev @anyvm ask\n")
    told = modules.qubes_vpn.audit(pillar, format="data")
    found = [(each["qube"], each["detail"]) for each in told["findings"] if each["rule"] == "A312"]
    rule = "10-mine.policy: * * dev @anyvm ask"
    assert found == [("sys-dns", rule), ("sys-vpn", rule)]


def test_nothing_is_written_and_nothing_started(modules, embedded):
    before = embedded.snapshot()
    modules.qubes_vpn.audit(PILLARS["dns"])
    assert embedded.writes() == []
    assert embedded.snapshot() == before


def test_the_exit_code_and_a_file(salt_call, embedded, tmp_path):
    path = tmp_path / "audit.sarif"
    done = salt_call("qubes_vpn.audit", "format=sarif", f"path={path}", pillar=PILLARS["dns"])
    assert done.returncode == 1
    assert "Found: " in done.stdout
    assert json.loads(path.read_text())["version"] == "2.1.0"
    assert path.stat().st_mode & 0o777 == 0o600
    done = salt_call("qubes_vpn.audit", "format=sarif", "fail_on=worst", pillar=PILLARS["dns"])
    assert done.returncode == 1
    assert "fail_on=worst: write one of critical, high, medium, low, note" in done.stderr
