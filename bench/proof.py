# SPDX-License-Identifier: GPL-2.0-or-later
"""Proving a machine's rules: the default machine, and VPN qubes with many endpoints."""

import tempfile
import time
from pathlib import Path

import qubes_vpn_model
import qubes_vpn_net
from bench.result import Result
from qubes_vpn_formula.cli import main
from qubes_vpn_formula.paths import formula_root
from qubes_vpn_formula.prove import machine, prover

#: Seconds, by the number of endpoints.
GOALS = {5_000: 10, 50_000: 60}


def results() -> list[Result]:
    with tempfile.TemporaryDirectory() as folder:
        page = str(Path(folder, "proof.html"))
        begin = time.perf_counter()
        code = main(["prove", str(formula_root() / "pillar.example"), "--json", "--page", page])
        seconds = time.perf_counter() - begin
    if code:
        raise RuntimeError("the example is not proven")
    found = [Result("seconds to prove the default machine", round(seconds, 2), 2, "clock")]
    return found + [_many(count, goal) for count, goal in GOALS.items()]


def _many(count: int, goal: float) -> Result:
    """More than dom0's list may have: the VPN qube's own rules."""
    tunnel = {"kind": "wireguard", "profile": "wg.conf", "endpoints": ["192.0.2.1:51820/udp"]}
    document = {"topology": "simple", "tunnels": {"sys-vpn": tunnel}}
    service = qubes_vpn_model.build(document).services["sys-vpn"]
    hosts = (f"11.{n >> 16}.{n >> 8 & 255}.{n & 255}:51820/udp" for n in range(count))
    service = service._replace(endpoints=tuple(map(qubes_vpn_net.endpoint, hosts)))
    begin = time.perf_counter()
    answers = list(prover.prove(list(machine.vpn(service))))
    seconds = time.perf_counter() - begin
    if not all(answer.holds for answer in answers):
        raise RuntimeError(f"{count} endpoints are not proven")
    what = f"seconds to prove a VPN qube with {count:,} endpoints"
    return Result(what, round(seconds, 1), goal, "clock")
