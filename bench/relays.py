# SPDX-License-Identifier: GPL-2.0-or-later
"""`qubes-vpn relays` with 600 relays, in processor time: alone and against its own start."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import processor
from bench.result import Result, ratio

#: Seconds (the issue: 600 relays in under a second), and the ratio.
GOAL = 1.0
RATIO = 4.0
RELAYS = 600
ROUNDS = 7
_PILLAR = """\
qubes_vpn:
  tunnels:
    sys-vpn:
      kind: mullvad
      endpoints:
        - 192.0.2.1:51820/udp
"""


def results() -> list[Result]:
    with tempfile.TemporaryDirectory() as name:
        lists, pillar = [Path(name, "a.json"), Path(name, "b.json")], Path(name, "pillar.sls")
        for moved, listed in enumerate(lists):
            listed.write_text(json.dumps(relay_list(RELAYS, moved)))
        pillar.write_text(_PILLAR)
        # Compiles bytecode, and gives --refresh its selection.
        _seconds("relays", "--from", lists[1], "--into", pillar)
        choose, refresh, start = [], [], []
        for turn in range(ROUNDS):
            listed = lists[turn % 2]
            choose.append(_seconds("relays", "--from", listed))
            refresh.append(_seconds("relays", "--from", listed, "--refresh", pillar))
            start.append(_seconds("--version"))
    return [
        _alone(f"choose from {RELAYS} relays and print them", choose),
        _alone(f"refresh a pillar with {RELAYS} relays, 20 of them moved", refresh),
        ratio("the same : qubes-vpn --version", RATIO, list(zip(refresh, start, strict=True))),
    ]


def _alone(what: str, times: list[float]) -> Result:
    return Result(what, round(statistics.median(times), 2), GOAL, "seconds of processor time")


def relay_list(count: int, moved: int) -> dict:
    """As much as the real list has of each relay; *moved*: 1 in 30 has another address."""
    relays = [
        {
            "hostname": f"xx-yyy-wg-{number:03}",
            "active": True,
            "owned": number % 3 == 0,
            "location": f"x{number % 40:02}-yyy",
            "provider": f"company {number % 15}",
            "ipv4_addr_in": f"45.{64 + number // 120}.{number % 120 * 2}."
            + ("77" if moved and number % 30 == 0 else "66"),
            "ipv6_addr_in": f"2a03:1b20:{number:x}::f001",
            "weight": 100,
            "include_in_country": True,
            "public_key": f"{number:044}",
            "daita": False,
            "shadowsocks_extra_addr_in": [f"46.{number % 200}.{n}.9" for n in range(10)],
            "features": {"quic": {"addr_in": [f"47.0.{number % 200}.1"], "token": "-" * 36}},
        }
        for number in range(count)
    ]
    ports = [[53, 53], [4000, 33433], [33565, 51820]]
    return {"locations": {}, "wireguard": {"port_ranges": ports, "relays": relays}}


def _seconds(*words: object) -> float:
    command = [sys.executable, "-m", "qubes_vpn_formula", *map(str, words)]
    return processor.of_children(lambda: subprocess.run(command, check=True, capture_output=True))
