# SPDX-License-Identifier: GPL-2.0-or-later
"""Terms put together, without the parts that say nothing: what is proven stays small.

z3's own `And`, `Or` and `==` do the same, and take most of a proof to look at what they are given.
"""

from collections.abc import Callable
from functools import lru_cache

import z3

TRUE, FALSE = z3.BoolVal(True), z3.BoolVal(False)
#: z3 has each term once, so the constants are known by where they are.
_TRUE, _FALSE = TRUE.ast.value, FALSE.ast.value
_CONTEXT = TRUE.ctx


def both(*truths: z3.BoolRef) -> z3.BoolRef:
    """All of them."""
    needed = [one for one in truths if one.ast.value != _TRUE]
    if any(one.ast.value == _FALSE for one in needed):
        return FALSE
    return _joined(z3.Z3_mk_and, needed) if needed else TRUE


def either(*truths: z3.BoolRef) -> z3.BoolRef:
    """One of them, at least."""
    possible = [one for one in truths if one.ast.value != _FALSE]
    if any(one.ast.value == _TRUE for one in possible):
        return TRUE
    return _joined(z3.Z3_mk_or, possible) if possible else FALSE


def unless(truth: z3.BoolRef, other: z3.BoolRef) -> z3.BoolRef:
    """*truth*, and not *other*."""
    return both(truth, not_(other))


def implies(truth: z3.BoolRef, other: z3.BoolRef) -> z3.BoolRef:
    """Where *truth* is so, *other* is."""
    return either(not_(truth), other)


def not_(truth: z3.BoolRef) -> z3.BoolRef:
    if truth.ast.value == _FALSE:
        return TRUE
    if truth.ast.value == _TRUE:
        return FALSE
    return z3.BoolRef(z3.Z3_mk_not(_CONTEXT.ref(), truth.ast), _CONTEXT)


@lru_cache(4096)
def constant(number: int, width: int) -> z3.BitVecNumRef:
    """*number* in *width* bits."""
    return z3.BitVecVal(number, width)


def equal(term: z3.BitVecRef, other: z3.BitVecRef | int) -> z3.BoolRef:
    """Both are the same."""
    if isinstance(other, int):
        other = constant(other, _width(term))
    if term.ast.value == other.ast.value:
        return TRUE
    if isinstance(term, z3.BitVecNumRef) and isinstance(other, z3.BitVecNumRef):
        return FALSE
    return z3.BoolRef(z3.Z3_mk_eq(_CONTEXT.ref(), term.ast, other.ast), _CONTEXT)


def between(term: z3.BitVecRef, low: int, high: int) -> z3.BoolRef:
    """*term* is not less than *low*, and not more than *high*."""
    if low == high:
        return equal(term, low)
    if isinstance(term, z3.BitVecNumRef):
        return TRUE if low <= term.as_long() <= high else FALSE
    return both(
        z3.UGE(term, low) if low else TRUE,
        z3.ULE(term, high) if high < (1 << _width(term)) - 1 else TRUE,
    )


def _width(term: z3.BitVecRef) -> int:
    return z3.Z3_get_bv_sort_size(_CONTEXT.ref(), z3.Z3_get_sort(_CONTEXT.ref(), term.ast))


def _joined(make: Callable[..., z3.Ast], truths: list[z3.BoolRef]) -> z3.BoolRef:
    if len(truths) == 1:
        return truths[0]
    arguments = (z3.Ast * len(truths))(*(one.ast for one in truths))
    return z3.BoolRef(make(_CONTEXT.ref(), len(truths), arguments), _CONTEXT)
