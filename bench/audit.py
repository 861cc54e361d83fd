# SPDX-License-Identifier: GPL-2.0-or-later
"""Auditing a machine of 500 qubes, from the first question to the text: seconds of processor time.

Each qube has a firewall list of its own.  Salt's start is not in it, nor what the embedded Qubes
takes for its answers, because it stands for qubesd.
"""

import gc
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from bench import large_pillar, many_qubes
from bench.result import Result
from qubes_vpn_formula.embedded import dom0
from qubes_vpn_formula.embedded.machine import EmbeddedQubes

GOAL = 1
QUBES = 500
RULES = 20
TIMES = 5


def results() -> list[Result]:
    document = large_pillar.made(QUBES)
    with tempfile.TemporaryDirectory() as name:
        machine = many_qubes.machine_of(Path(name) / "machine.json", document)
        for number, client in enumerate(document["layout"]):
            machine.call(client, "admin.vm.firewall.Set", "", _list(number))
        times = []
        for _ in range(TIMES):
            gc.collect()
            times.append(_seconds(machine, document))
    taken, looked = (statistics.median(parts) for parts in zip(*times, strict=True))
    detail = f"inventory {taken * 1000:.3g} ms, rules and text {looked * 1000:.3g} ms"
    what = f"audit of {QUBES} qubes with {RULES} rules each, seconds net of Salt's start"
    return [Result(what, round(taken + looked, 3), GOAL, detail)]


def _list(number: int) -> bytes:
    """A firewall list that no other qube has."""
    rules = [
        f"action=accept dst4=198.51.{number % 256}.{place}/32 proto=tcp dstports={number + 1}-65535"
        for place in range(RULES - 1)
    ]
    return "".join(f"{rule}\n" for rule in [*rules, "action=drop"]).encode()


def _seconds(machine: EmbeddedQubes, document: dict) -> tuple[float, float]:
    """Seconds to read the machine, without its answers, and to find and tell what is wrong."""
    import qubes_vpn_audit
    import qubes_vpn_finding
    import qubes_vpn_model

    answers = []
    call = EmbeddedQubes.call

    def timed(*args: Any) -> bytes:
        start = time.process_time()
        try:
            return call(*args)
        finally:
            answers.append(time.process_time() - start)

    with mock.patch.object(EmbeddedQubes, "call", timed):
        start = time.process_time()
        asked = dom0.machine(machine.path, dry=True)
        import qubes_vpn_inventory

        inventory = qubes_vpn_inventory.take(asked, {})
        taken = time.process_time() - start - sum(answers)
    start = time.process_time()
    report = qubes_vpn_audit.audit(inventory, qubes_vpn_model.build(document))
    if "A101" not in qubes_vpn_finding.text(report):
        raise RuntimeError("on this machine everybody is in clear")
    return taken, time.process_time() - start
