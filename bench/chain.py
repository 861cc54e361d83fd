# SPDX-License-Identifier: GPL-2.0-or-later
"""Processor time of the six-qube chain's first and second run, against the least a run costs.

The embedded Qubes answers in the same process, so its own time counts as the formula's.
"""

import tempfile
from pathlib import Path

from bench.minion import EMPTY, FORMULA, minion, state_sls
from bench.result import Result, ratio
from qubes_vpn_formula.embedded.machine import EmbeddedQubes

ROUNDS = 7
FIRST, SECOND = 1.5, 1.2

#: personal and work -> sys-firewall -> sys-dns -> sys-vpn -> sys-net
PILLAR = """
qubes_vpn:
  tunnels:
    sys-vpn: {kind: wireguard, endpoints: ["192.0.2.1:51820/udp"], profile: wg.conf}
  routes:
    qubes: {personal: sys-firewall, work: sys-firewall}
"""


def results() -> list[Result]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = minion(folder, PILLAR)
        rounds = []
        for turn in range(ROUNDS + 1):
            machine = EmbeddedQubes(folder / f"{turn}.json").path
            # The empty one between the two that are compared with it.
            rounds.append([state_sls(made, sls, machine) for sls in (FORMULA, EMPTY, FORMULA)])
    rounds = rounds[1:]  # the first one compiled bytecode and filled caches
    what = "processor time, six-qube chain, {} run : empty SLS"
    return [
        ratio(what.format("first"), FIRST, [(first, empty) for first, empty, _ in rounds]),
        ratio(what.format("second"), SECOND, [(second, empty) for _, empty, second in rounds]),
    ]
