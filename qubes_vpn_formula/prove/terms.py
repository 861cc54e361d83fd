# SPDX-License-Identifier: GPL-2.0-or-later
"""Truths put together, without the parts that say nothing: what is proven stays small."""

from collections.abc import Callable

import z3

TRUE, FALSE = z3.BoolVal(True), z3.BoolVal(False)
#: z3 has each term once, so the constants are known by where they are.
_TRUE, _FALSE = TRUE.ast.value, FALSE.ast.value


def both(*truths: z3.BoolRef) -> z3.BoolRef:
    """All of them."""
    needed = [one for one in truths if one.ast.value != _TRUE]
    if any(one.ast.value == _FALSE for one in needed):
        return FALSE
    return _joined(z3.Z3_mk_and, needed)


def either(*truths: z3.BoolRef) -> z3.BoolRef:
    """One of them, at least."""
    possible = [one for one in truths if one.ast.value != _FALSE]
    if any(one.ast.value == _TRUE for one in possible):
        return TRUE
    return _joined(z3.Z3_mk_or, possible)


def unless(truth: z3.BoolRef, other: z3.BoolRef) -> z3.BoolRef:
    """*truth*, and not *other*."""
    return both(truth, not_(other))


def not_(truth: z3.BoolRef) -> z3.BoolRef:
    if truth.ast.value == _FALSE:
        return TRUE
    return FALSE if truth.ast.value == _TRUE else z3.Not(truth)


def _joined(make: Callable[..., z3.Ast], truths: list[z3.BoolRef]) -> z3.BoolRef:
    """As `z3.And` and `z3.Or`, which take a third of a proof to look at what they are given."""
    if len(truths) == 1:
        return truths[0]
    arguments = (z3.Ast * len(truths))(*(one.ast for one in truths))
    return z3.BoolRef(make(TRUE.ctx_ref(), len(truths), arguments), TRUE.ctx)
