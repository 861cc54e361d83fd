# SPDX-License-Identifier: GPL-2.0-or-later
"""How many Admin API calls a chain of six qubes takes, counted by the embedded Qubes."""

import tempfile
from pathlib import Path

from bench.result import Result
from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.masterless import Masterless

# personal and work -> sys-firewall -> sys-dns -> sys-vpn -> sys-net
PILLAR = """
qubes_vpn:
  tunnels:
    sys-vpn: {kind: wireguard, endpoints: ["192.0.2.1:51820/udp"], profile: wg.conf}
  routes:
    qubes: {personal: sys-firewall, work: sys-firewall}
"""


def results() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        machine = EmbeddedQubes(Path(folder) / "machine.json")
        minion = Masterless(Path(folder) / "minion").prepare()
        minion.set_pillar(PILLAR)
        first, _ = _apply(minion, machine)
        second, writes = _apply(minion, machine)
    return [
        Result("Admin API calls, six-qube chain, first run", first, 150, "calls"),
        Result("Admin API calls, six-qube chain, second run", second, 20, "calls"),
        Result("Admin API writes, six-qube chain, second run", writes, 0, "calls"),
    ]


def _apply(minion: Masterless, machine: EmbeddedQubes) -> tuple[int, int]:
    """Applies the SLS: (calls, writes among them)."""
    machine.forget_calls()
    run = minion.salt_call("state.sls", "qubes.network.sys-vpn", machine=machine.path)
    if run.code:
        raise RuntimeError(run.stdout + run.stderr)
    calls = machine.calls()
    return len(calls), sum(call.write for call in calls)
