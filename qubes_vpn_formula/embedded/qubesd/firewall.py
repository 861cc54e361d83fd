# SPDX-License-Identifier: GPL-2.0-or-later
"""Firewall rules: admin.vm.firewall.*

Rules are kept in the canonical form that firewall.Get shows; the grammar is in `firewall_grammar`.
"""

from . import firewall_grammar
from .errors import EmptyAnswer, Missing
from .events import fire
from .machine import QUBES
from .method import method
from .names import ascii_text

_DEFAULT = ["action=accept"]


def rules(qube) -> list[str]:
    """All rules of the qube, expired ones included."""
    if qube.klass not in QUBES:
        raise Missing("firewall of " + qube.name)
    return _DEFAULT if qube.data["rules"] is None else qube.data["rules"]


def current(qube) -> list[str]:
    """The rules of the qube that have not expired."""
    now = qube.machine.now()
    return [rule for rule in rules(qube) if not firewall_grammar.expired(rule, now)]


def qubesdb_entries(qube, family: int) -> dict[str, str]:
    """The rules for one address family (4 or 6) as its netvm reads them.

    Numbers count all rules: those of the other family and expired ones leave gaps.
    """
    other = "dst4=" if family == 6 else "dst6="
    entries = {"policy": "drop"}
    now = qube.machine.now()
    for number, rule in enumerate(rules(qube)):
        if not firewall_grammar.expired(rule, now) and f" {other}" not in rule:
            entries[f"{number:04}"] = firewall_grammar.without_notes(rule)
    return entries


@method("admin.vm.firewall.Get", no_arg=True)
def _get(request):
    return "".join(f"{rule}\n" for rule in current(request.dest))


@method("admin.vm.firewall.Set", no_arg=True, payload=True, writes=True)
def _set(request):
    lines = ascii_text(request.payload).splitlines()
    try:
        new = [firewall_grammar.canonical(line, request.machine.release) for line in lines]
    except ValueError as error:
        raise EmptyAnswer from error
    rules(request.dest)
    request.dest.data["rules"] = new
    fire("firewall-changed", request.dest)


@method("admin.vm.firewall.Reload", no_arg=True, writes=True)
def _reload(request):
    fire("firewall-changed", request.dest)
