# SPDX-License-Identifier: GPL-2.0-or-later
"""Checking and planning a pillar of 1,000 qubes, against reading its YAML as Salt does."""

import gc
from collections.abc import Callable

import yaml

import qubes_vpn_model
import qubes_vpn_plan
from bench import processor
from bench.result import Result, ratio

GOAL = 1.5
QUBES = 1000
PAIRS = 31

_TUNNEL = {"kind": "wireguard", "endpoints": ["192.0.2.1:51820/udp"], "profile": "wg.conf"}
_QUBE = {"template": "debian-13-xfce", "label": "green", "memory": 400, "maxmem": 4000}


def results() -> list[Result]:
    return [
        _result("check and plan 1,000 routes : load the YAML", routed(QUBES)),
        _result("check and plan 1,000 routes and qubes to make : load the YAML", made(QUBES)),
    ]


def routed(count: int) -> dict:
    """The document `qubes_vpn` of `count` clients of one tunnel."""
    routes = {"qubes": dict.fromkeys(_names(count), "sys-firewall")}
    return {"tunnels": {"sys-vpn": _TUNNEL}, "routes": routes}


def made(count: int) -> dict:
    """The same, and the clients are to be made."""
    return {**routed(count), "layout": dict.fromkeys(_names(count), _QUBE)}


def check_and_plan(document: dict) -> list[qubes_vpn_plan.Step]:
    """All steps for `document`. RuntimeError when something is wrong with it."""
    model, problems = qubes_vpn_model.read(document)
    if problems:
        raise RuntimeError("\n".join(problem.text() for problem in problems[:3]))
    return qubes_vpn_plan.layout(model) + qubes_vpn_plan.plan(model)


def _result(what: str, pillar: dict) -> Result:
    text = yaml.dump({"qubes_vpn": pillar}, Dumper=_NoAliases, sort_keys=False)
    document = _load(text)
    pairs = [
        (_seconds(lambda: check_and_plan(document)), _seconds(lambda: _load(text)))
        for _ in range(PAIRS)
    ]
    return ratio(what, GOAL, pairs)


class _NoAliases(yaml.SafeDumper):
    """Writes each qube out, as people do."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _load(text: str) -> dict:
    return yaml.load(text, Loader=yaml.CSafeLoader)["qubes_vpn"]


def _names(count: int) -> list[str]:
    return [f"client-{number:03}" for number in range(count)]


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()  # so that neither pays for the other's garbage
    return processor.of_this_process(work)
