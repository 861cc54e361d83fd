# SPDX-License-Identifier: GPL-2.0-or-later
"""Planning for 200 qubes, against Salt's own start: a run of an SLS with nothing in it.

The plan by itself, and the plan asked of a machine on which everything is still to be done. What
the embedded Qubes takes for its answers is left out, because it stands for qubesd.
"""

import gc
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from bench import large_pillar, processor
from bench.minion import EMPTY, minion, state_sls
from bench.result import Result, ratio
from qubes_vpn_formula import foretold
from qubes_vpn_formula.embedded import dom0
from qubes_vpn_formula.embedded.machine import EmbeddedQubes

GOAL = 0.1
QUBES = 200
PAIRS = 5


def results() -> list[Result]:
    document = large_pillar.made(QUBES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = minion(folder, "{}\n")
        machine = machine_of(folder / "machine.json", document)
        pure, live = [], []
        for _ in range(PAIRS + 1):
            gc.collect()
            planned = processor.of_this_process(lambda: large_pillar.check_and_plan(document))
            asked = _asked(machine, large_pillar.check_and_plan(document))
            empty = state_sls(made, EMPTY, machine.path)
            pure.append((planned, empty))
            live.append((planned + asked, empty))
    return [
        ratio(f"check and plan {QUBES} routes and qubes to make : empty SLS", GOAL, pure[1:]),
        ratio(f"the same, asked of a machine of {QUBES} clients : empty SLS", GOAL, live[1:]),
    ]


def machine_of(path: Path, document: dict) -> EmbeddedQubes:
    """One that has the document's clients, none of them routed yet."""
    machine = EmbeddedQubes(path)
    for name, qube in document["layout"].items():
        new = f"name={name} label={qube['label']}".encode()
        machine.call("dom0", "admin.vm.Create.AppVM", qube["template"], new)
    return machine


def _asked(machine: EmbeddedQubes, steps: list) -> float:
    """Processor time to ask `machine` what each step would change, without that of its answers."""
    answers = []
    call = EmbeddedQubes.call

    def timed(*args: Any) -> bytes:
        start = time.process_time()
        try:
            return call(*args)
        finally:
            answers.append(time.process_time() - start)

    told: list = []
    with mock.patch.object(EmbeddedQubes, "call", timed):
        asked = processor.of_this_process(
            lambda: told.extend(
                foretold.Asked(dom0.machine(machine.path, dry=True), {}).foretell(steps)
            )
        )
    if problems := [step["problem"] for step in told if step["problem"]]:
        raise RuntimeError(problems[0])
    return asked - sum(answers)
