# SPDX-License-Identifier: GPL-2.0-or-later
"""How many Admin API calls a chain of six qubes takes, counted by the embedded Qubes."""

import tempfile
from pathlib import Path

from bench.chain import PILLAR
from bench.result import Result
from qubes_vpn_formula.embedded.calls import Call
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.masterless import Masterless


def results() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        machine = EmbeddedQubes(Path(folder) / "machine.json")
        minion = Masterless(Path(folder) / "minion").prepare()
        minion.set_pillar(PILLAR)
        first = _apply(minion, machine)
        second = _apply(minion, machine)
    qubes = {call.dest for call in second} - {"dom0"}
    single = sum(not call.method.endswith((".GetAll", ".vm.List")) for call in second)
    detail = f"{len(qubes)} qubes looked at; {single} calls for features and firewall lists"
    return [
        Result("Admin API calls, six-qube chain, first run", len(first), 150, "calls"),
        Result("Admin API calls, six-qube chain, second run", len(second), 2 + len(qubes), detail),
        Result(
            "Admin API writes, six-qube chain, second run",
            sum(call.write for call in second),
            0,
            "calls",
        ),
    ]


def _apply(minion: Masterless, machine: EmbeddedQubes) -> list[Call]:
    """Applies the SLS; the calls that it made."""
    machine.forget_calls()
    run = minion.salt_call("state.sls", "qubes.network.sys-vpn", machine=machine.path)
    if run.code:
        raise RuntimeError(run.stdout + run.stderr)
    return machine.calls()
