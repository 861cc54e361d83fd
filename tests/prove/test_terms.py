# SPDX-License-Identifier: GPL-2.0-or-later
"""R91: what the terms leave out says nothing: they are the same as z3's own."""

from itertools import product

import pytest
import z3

from qubes_vpn_formula.prove.terms import (
    FALSE,
    TRUE,
    between,
    both,
    constant,
    either,
    equal,
    implies,
    not_,
    unless,
)

_TRUTHS = [TRUE, FALSE, z3.Bool("a"), z3.Bool("b"), z3.And(z3.Bool("a"), z3.Bool("b"))]
_TERMS = [z3.BitVec("x", 4), z3.BitVec("y", 4), *(constant(number, 4) for number in (0, 5, 15))]


def _same(one: z3.BoolRef, other: z3.BoolRef) -> bool:
    solver = z3.Solver()
    solver.add(one != other)
    return solver.check() == z3.unsat


@pytest.mark.parametrize("many", range(4))
def test_truths_together(many: int) -> None:
    for truths in product(_TRUTHS, repeat=many):
        assert _same(both(*truths), z3.And(*truths))
        assert _same(either(*truths), z3.Or(*truths))


def test_one_truth_and_another() -> None:
    for one, other in product(_TRUTHS, repeat=2):
        assert _same(not_(one), z3.Not(one))
        assert _same(unless(one, other), z3.And(one, z3.Not(other)))
        assert _same(implies(one, other), z3.Implies(one, other))


def test_numbers_that_are_the_same() -> None:
    for one, other in product(_TERMS, [*_TERMS, 0, 5, 14]):
        assert _same(equal(one, other), one == other)


def test_numbers_within_limits() -> None:
    for term, (low, high) in product(_TERMS, product((0, 4, 5, 6, 15), repeat=2)):
        if low <= high:
            assert _same(between(term, low, high), z3.And(z3.UGE(term, low), z3.ULE(term, high)))
