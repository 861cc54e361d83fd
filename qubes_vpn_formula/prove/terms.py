# SPDX-License-Identifier: GPL-2.0-or-later
"""Truths put together, without the parts that say nothing: what is proven stays small."""

import z3

TRUE, FALSE = z3.BoolVal(True), z3.BoolVal(False)


def both(*truths: z3.BoolRef) -> z3.BoolRef:
    """All of them."""
    if any(z3.is_false(one) for one in truths):
        return FALSE
    needed = [one for one in truths if not z3.is_true(one)]
    return needed[0] if len(needed) == 1 else z3.And(needed)


def either(*truths: z3.BoolRef) -> z3.BoolRef:
    """One of them, at least."""
    if any(z3.is_true(one) for one in truths):
        return TRUE
    possible = [one for one in truths if not z3.is_false(one)]
    return possible[0] if len(possible) == 1 else z3.Or(possible)


def unless(truth: z3.BoolRef, other: z3.BoolRef) -> z3.BoolRef:
    """*truth*, and not *other*."""
    return both(truth, not_(other))


def not_(truth: z3.BoolRef) -> z3.BoolRef:
    if z3.is_false(truth):
        return TRUE
    return FALSE if z3.is_true(truth) else z3.Not(truth)
