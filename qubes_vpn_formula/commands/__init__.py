# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands, in the order of ``qubes-vpn --help``.

Each module has ``add(subparsers)``, which adds its parser, and ``run(args)``, which returns the
exit code or raises :class:`qubes_vpn_formula.errors.UserError`.
"""

from qubes_vpn_formula.commands import (
    adopt,
    audit,
    bundle,
    check,
    demo,
    fleet,
    graph,
    init,
    lab,
    plan,
    prove,
    relays,
    set,
    table,
)

COMMANDS = (
    init, check, set, relays, plan, adopt, bundle, fleet, audit, graph, table, demo, lab, prove,
)  # fmt: skip
