# SPDX-License-Identifier: GPL-2.0-or-later
"""The execution module: what an SLS, or a user in dom0, asks about a pillar. It needs no qubesd."""

import hashlib
import inspect

import pytest
import salt.utils.yaml
import yaml
from pillars import PILLARS


@pytest.mark.parametrize("name", PILLARS)
def test_good_pillar_has_steps_and_no_problem(modules, embedded, name):
    assert modules.qubes_vpn.check(PILLARS[name]) == []
    plan = modules.qubes_vpn.plan(PILLARS[name])
    assert plan["problems"] == []
    assert all(step["why"] for step in plan["steps"])
    ids = [step["id"] for step in plan["steps"]]
    assert len(ids) == len(set(ids))
    assert embedded.calls() == []


def test_example_pillar_is_good(modules, pillar_example):
    document = yaml.safe_load(pillar_example)["qubes_vpn"]
    assert modules.qubes_vpn.check(document) == []
    for part in ("network", "layout"):
        assert modules.qubes_vpn.plan(document, part)["steps"] != []


@pytest.mark.parametrize("name", PILLARS)
def test_every_step_is_a_state_with_its_arguments(modules, session_states, name):
    """Neither `show_sls` nor a pillar check would notice."""
    for step in modules.qubes_vpn.plan(PILLARS[name])["steps"]:
        signature = inspect.signature(session_states.loaded(step["state"]))
        signature.bind(**step["args"])


@pytest.mark.parametrize("name", PILLARS)
def test_plan_is_plain_data(modules, name):
    """It has to survive YAML, and the way to a qube."""
    plan = modules.qubes_vpn.plan(PILLARS[name])
    assert yaml.safe_load(yaml.safe_dump(plan)) == plan


def test_every_broken_pillar_has_problems_and_no_steps(modules, checkout):
    broken = sorted((checkout / "tests/bad/pillars").glob("*.yml"))
    assert len(broken) > 40
    for path in broken:
        try:
            document = salt.utils.yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError:
            continue  # Salt refuses it before anybody asks us
        if not isinstance(document, dict) or document.get("qubes_vpn") is None:
            document = {"qubes_vpn": {}}
        problems = modules.qubes_vpn.check(document["qubes_vpn"])
        assert problems, path.name
        assert all(problem.startswith("pillar: qubes_vpn") for problem in problems)
        assert modules.qubes_vpn.plan(document["qubes_vpn"]) == {"problems": problems, "steps": []}


def test_without_an_argument_it_is_the_minions_own_pillar(modules):
    """The minion of these tests has none."""
    assert modules.qubes_vpn.check() == modules.qubes_vpn.check({})
    assert modules.qubes_vpn.plan()["problems"] == modules.qubes_vpn.check({})


def test_pillar_of_the_minion_is_read(salt_call, embedded):
    run = salt_call("qubes_vpn.check", pillar={**PILLARS["dns"], "topolgy": "dns"})
    (problem,) = run.data
    assert problem.startswith("pillar: qubes_vpn.topolgy: unknown key.")
    assert embedded.calls() == []


def test_a_date_in_the_pillar_is_what_salt_makes_of_it(modules):
    """R36. Text, where PyYAML has a date; the day and the checksum fit either way."""
    text = '{"list": "mullvad", "taken": "2026-11-22"}\n192.0.2.7:51820/udp'
    right = hashlib.sha256(text.encode()).hexdigest()
    document = salt.utils.yaml.safe_load(
        "tunnels: {sys-vpn: {kind: mullvad, endpoints: ['192.0.2.7:51820/udp'], "
        f"relays: {{list: mullvad, taken: 2026-11-22, sha256: '{right}'}}}}}}"
    )
    assert modules.qubes_vpn.plan(document)["problems"] == []
    document["tunnels"]["sys-vpn"]["relays"]["taken"] = "2026-11-21"
    (problem,) = modules.qubes_vpn.plan(document)["problems"]
    assert "the selection or the endpoints were changed" in problem
