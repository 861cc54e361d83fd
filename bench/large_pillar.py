# SPDX-License-Identifier: GPL-2.0-or-later
"""Checking and planning a pillar of 1,000 qubes, against reading its YAML as Salt does."""

import gc
import time
from collections.abc import Callable

import yaml

import qubes_vpn_model
import qubes_vpn_plan
from bench.result import Result, ratio

GOAL = 1.5
QUBES = [f"client-{number:03}" for number in range(1000)]
PAIRS = 31

_TUNNEL = {"kind": "wireguard", "endpoints": ["192.0.2.1:51820/udp"], "profile": "wg.conf"}
_ROUTED = {
    "tunnels": {"sys-vpn": _TUNNEL},
    "routes": {"qubes": dict.fromkeys(QUBES, "sys-firewall")},
}
_QUBE = {"template": "debian-13-xfce", "label": "green", "memory": 400, "maxmem": 4000}
_MADE = {**_ROUTED, "layout": dict.fromkeys(QUBES, _QUBE)}


def results() -> list[Result]:
    return [
        _result("check and plan 1,000 routes : load the YAML", _ROUTED),
        _result("check and plan 1,000 routes and qubes to make : load the YAML", _MADE),
    ]


def _result(what: str, pillar: dict) -> Result:
    text = yaml.dump({"qubes_vpn": pillar}, Dumper=_NoAliases, sort_keys=False)
    document = _load(text)
    pairs = [
        (_seconds(lambda: _check_and_plan(document)), _seconds(lambda: _load(text)))
        for _ in range(PAIRS)
    ]
    return ratio(what, GOAL, pairs)


class _NoAliases(yaml.SafeDumper):
    """Writes each qube out, as people do."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _load(text: str) -> dict:
    return yaml.load(text, Loader=yaml.CSafeLoader)["qubes_vpn"]


def _check_and_plan(document: dict) -> None:
    model, problems = qubes_vpn_model.read(document)
    if problems:
        raise RuntimeError("\n".join(problem.text() for problem in problems[:3]))
    qubes_vpn_plan.plan(model)
    qubes_vpn_plan.layout(model)


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()  # so that neither pays for the other's garbage
    # Processor time: a few milliseconds of wall-clock time are another process's as often as not.
    start = time.process_time()
    work()
    return time.process_time() - start
