# SPDX-License-Identifier: GPL-2.0-or-later
"""The model of nftables against the kernel: random rules, random packets, no disagreement (R91)."""

from collections import Counter
from itertools import count

import pytest
from prove_compare import Case, Model, followers
from prove_random import Rules, packets

from qubes_vpn_formula.prove import walk
from qubes_vpn_formula.prove.notmodelled import NotModelled

_FLOWS = 24  # packets of new flows for each rule set


def _compared(bench, seed: int) -> tuple[Counter, list[str]]:
    """How many packets were compared, by conntrack's state, and each disagreement."""
    ruleset = bench.load(bench.loadable(Rules(seed).text()))
    model = Model(ruleset, bench)
    new = [Case(device, wire, {}) for device, wire in packets(seed, _FLOWS, 1)]
    salvos = [
        [case for case in new if case.device],
        [case for case in new if not case.device],
        *([] for _ in _LATER),
    ]
    idents, compared, wrong = count(100), Counter(), []
    for number, salvo in enumerate(salvos):
        seen = bench.salvo([(case.device, case.wire) for case in salvo])
        model.start()
        for case in salvo:
            compared[seen.state.get(case.wire.ident)] += 1
            if told := model.disagreement(case, seen):
                wrong.append(f"rules {seed}, {case}: {told}")
            if number < 2:
                for kind, follower in followers(case, seen, idents):
                    salvos[2 + _LATER.index(kind)].append(follower)
        if not seen.noise and not wrong:
            wrong += [f"rules {seed}, salvo {number}: {one}" for one in model.miscounted(seen)]
    return compared, wrong


#: What comes after the first packets, in this order.
_LATER = ("another", "answer", "later", "error")


def _all(bench, seeds: range) -> Counter:
    compared, wrong, refused = Counter(), [], 0
    for seed in seeds:
        try:
            one, disagreements = _compared(bench, seed)
        except NotModelled:
            refused += 1
            continue
        compared += one
        wrong += disagreements
    assert not wrong, "\n".join(wrong)
    assert refused <= len(seeds) / 10  # what is compared is the model, not its refusals
    return compared


def test_some_rule_sets(bench):
    compared = _all(bench, range(10_000, 10_010))
    assert compared.total() >= 300
    assert {value for value in compared if value} >= {1, 2, 4, 8}, "states are missing"


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_packets(bench):
    compared, seed = Counter(), 0
    while compared.total() < 10_000:
        compared += _all(bench, range(seed, seed + 20))
        seed += 20
    assert set(compared) >= {1, 2, 4, 8, 64}, "states are missing"


def _policy_forgotten(patch):
    base = walk._Walk._base

    def careless(self, chain, alive):
        return base(self, chain, alive) if chain.base.policy == "accept" else alive

    patch.setattr(walk._Walk, "_base", careless)


def _goto_comes_back(patch):
    rule = walk._Walk._rule

    def careless(self, *arguments):
        found = rule(self, *arguments)
        return [(met, {"jump": one["goto"]} if "goto" in one else one) for met, one in found]

    patch.setattr(walk._Walk, "_rule", careless)


def _nat_at_its_own_priority(patch):
    for hook in walk.translation.PRIORITIES:
        patch.setitem(walk.translation.PRIORITIES, hook, 300)


def _later_packets_ask_again(patch):
    patch.setattr(
        walk.translation, "asks_rules", lambda hook, packet: packet.in_state("new", "established")
    )


def _absent_is_unequal(patch):
    match = walk.Statements.match

    def careless(self, rule, data, packet):
        if data["op"] != "!=":
            return match(self, rule, data, packet)
        return walk.unless(walk.TRUE, match(self, rule, {**data, "op": "=="}, packet))

    patch.setattr(walk.Statements, "match", careless)


@pytest.mark.parametrize(
    "mistake",
    [
        _policy_forgotten,
        _goto_comes_back,
        _nat_at_its_own_priority,
        _later_packets_ask_again,
        _absent_is_unequal,
    ],
)
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_mistake_in_the_model_is_found(bench, monkeypatch, mistake):
    mistake(monkeypatch)
    wrong = []
    for seed in range(10_000, 10_100):
        try:
            wrong += _compared(bench, seed)[1]
        except NotModelled:
            continue
        if wrong:
            return
    pytest.fail("no disagreement")
