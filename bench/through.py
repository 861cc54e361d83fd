# SPDX-License-Identifier: GPL-2.0-or-later
"""Through the VPN qube, with the killswitch and without it: throughput and latency.

One lab, one real WireGuard tunnel; the rules come and go between the halves of each pair, and which
half is first alternates.  Latency is that of all pings of a kind together: a percentile of few is
noise.
"""

import json
import re
import subprocess
from collections.abc import Callable
from itertools import chain
from typing import TypeVar

from bench.result import Result, ratio
from qubes_vpn_formula.lab.chains import simple
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.machine import SERVER, Lab
from qubes_vpn_formula.lab.qube import Qube

PAIRS = 20
#: Throughput of at least 0.97, latency of at most 1.05 times that without the killswitch.
THROUGHPUT, LATENCY = round(1 / 0.97, 3), 1.05
_GONE = "nft delete table inet qubes_vpn; nft delete table netdev qubes_vpn"
_PINGS = 250

T = TypeVar("T")


def results() -> list[Result]:
    with Lab(simple(), Ours()) as lab:
        lab.start()
        client, vpn = lab.qubes["client-1"], lab.qubes["sys-vpn"]
        with lab.internet.popen(["iperf3", "--server"], stdout=subprocess.DEVNULL) as server:
            lab.internet.run("until ss -Hltn sport = 5201 | grep -q .; do sleep 0.05; done")
            try:
                return [
                    ratio(
                        "seconds a gigabit takes, with : without the killswitch",
                        THROUGHPUT,
                        _pairs(vpn, lambda: _seconds_a_gigabit(client)),
                    ),
                    ratio(
                        "99th percentile of latency, with : without the killswitch",
                        LATENCY,
                        [_percentiles(_pairs(vpn, lambda: _answers(client)))],
                    ),
                ]
            finally:
                server.terminate()


def _pairs(vpn: Qube, measure: Callable[[], T]) -> list[tuple[T, T]]:
    pairs = []
    for number in range(PAIRS):
        measured = {}
        for loaded in (True, False) if number % 2 else (False, True):
            vpn.run("/usr/lib/qubes-vpn/killswitch load" if loaded else _GONE)
            measured[loaded] = measure()
        pairs.append((measured[True], measured[False]))
        vpn.run("/usr/lib/qubes-vpn/killswitch load")
    return pairs


def _seconds_a_gigabit(client: Qube) -> float:
    done = client.run(["iperf3", "--client", SERVER[4], "--time", "1", "--omit", "0.3", "--json"])
    return 1e9 / json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]


def _answers(client: Qube) -> list[float]:
    """Seconds until each ping was answered."""
    done = client.run(["ping", "-n", "-i", "0.002", "-c", str(_PINGS), SERVER[4]])
    times = [float(time) / 1000 for time in re.findall(r"time=([\d.]+) ms", done.stdout)]
    if len(times) < _PINGS:
        raise RuntimeError(f"{_PINGS - len(times)} of {_PINGS} pings were not answered")
    return times


def _percentiles(pairs: list[tuple[list[float], list[float]]]) -> tuple[float, float]:
    """The 99th of each kind."""
    kinds = [sorted(chain.from_iterable(half)) for half in zip(*pairs, strict=True)]
    return tuple(times[len(times) * 99 // 100] for times in kinds)
