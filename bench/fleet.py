# SPDX-License-Identifier: GPL-2.0-or-later
"""Building a fleet of 1,000 machines, proofs and bundles included: two processes against one.

Ten sites, each with relays of its own; each machine has clients of its own.  So there are ten
machines' worth of proofs, and a thousand of everything else.
"""

import contextlib
import io
import os
import shutil
import tempfile
import time
from pathlib import Path

from bench.result import Result
from qubes_vpn_formula.cli import main

#: Two processes' time against one's: 1.7 times as fast.
GOAL = 1 / 1.7
MACHINES = 1000
SITES = 10
_BASE = """\
qubes_vpn:
  tunnels:
    sys-vpn: {kind: wireguard, profile: wg.conf}
"""
_SITE = """\
qubes_vpn:
  tunnels:
    sys-vpn:
      endpoints: ["198.51.100.{site}:51820/udp", "203.0.113.{site}:51820/udp"]
"""
_OWN = "qubes_vpn: {routes: {qubes: {%s}}}\n"


def results() -> list[Result]:
    what = f"build {MACHINES:,} machines, two processes : one"
    if (os.cpu_count() or 1) < 2:
        return [Result(what, None, round(GOAL, 3), "not measured: there is one core")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder / "machines")
        one, two = (_seconds(folder, jobs) for jobs in (1, 2))
    detail = f"{MACHINES / two:.1f} machines a second : {MACHINES / one:.1f}"
    return [Result(what, round(two / one, 3), round(GOAL, 3), detail)]


def _write(folder: Path) -> None:
    for site in range(SITES):
        (folder / f"site{site}").mkdir(parents=True)
        (folder / f"site{site}/base.sls").write_text(_SITE.replace("{site}", str(site + 1)))
    (folder / "base.sls").write_text(_BASE)
    for number in range(MACHINES):
        clients = (f"client{number}-{client}: sys-firewall" for client in range(5))
        place = folder / f"site{number % SITES}/machine{number}.sls"
        place.write_text(_OWN % ", ".join(clients))


def _seconds(folder: Path, jobs: int) -> float:
    output = folder / f"with-{jobs}"
    words = ["fleet", "build", str(folder / "machines"), "--output", str(output)]
    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as told:
        code = main([*words, "--jobs", str(jobs)])
    seconds = time.perf_counter() - begin
    if code:
        raise RuntimeError(f"the fleet was not built: {told.getvalue()}")
    shutil.rmtree(output)
    return seconds
