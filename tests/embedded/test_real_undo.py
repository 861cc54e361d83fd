# SPDX-License-Identifier: GPL-2.0-or-later
"""An undo by the real client: to the last run, to the first, killed, and again. Needs QUBES_SRC."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.embedded.server import serving

HERE = Path(__file__).parent
WIREGUARD = {"kind": "wireguard", "profile": "wg.conf", "endpoints": ["192.0.2.1:51820/udp"]}
PILLARS = [
    {"tunnels": {"sys-vpn": WIREGUARD}, "vaults": ["vault"]},
    {"topology": "simple", "tunnels": {"sys-vpn": WIREGUARD}},
]
KILLS = [("before", 1), ("after", 1), ("before", 2), ("after", 3), ("before", 4), ("after", 4)]


class Dom0:
    """A machine, its record, and the real client."""

    def __init__(self, client, release, folder):
        self.machine = EmbeddedQubes(folder / "machine.json", release)
        self.record = folder / "record"
        self._client, self._socket = client, folder / "qubesd.sock"

    def run(self, pillar=None, to=None):
        """Applies a pillar, or undoes: (exit status, ``[[step, changes]...]``)."""
        words = [self._socket, self.record, *([to] if to else [])]
        environ = {"PYTHONPATH": str(self._client), "PYTHONDONTWRITEBYTECODE": "1"}
        with serving(self._socket, self.machine):
            child = subprocess.run(
                [sys.executable, HERE / "run_plan.py", *words],
                env={**os.environ, **environ},
                input=json.dumps(pillar),
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
        return child.returncode, json.loads(child.stdout or "null")

    def settings(self, names=None):
        """What an undo has to bring back, of all qubes or of *names*."""
        found = self.machine.snapshot()
        qubes = {name: found["qubes"][name] for name in names or found["qubes"]}
        return found["globals"], {
            name: {key: qube[key] for key in ("properties", "features")}
            | {"rules": qube.get("rules") or ["action=accept"]}
            for name, qube in qubes.items()
        }


@pytest.fixture
def dom0(real_client, real_release, tmp_path):
    """After two runs; with what the machine was before each."""
    machine = Dom0(real_client, real_release, tmp_path)
    before = []
    for pillar in PILLARS:
        before.append(machine.settings())
        assert machine.run(pillar)[0] == 0
    return machine, before


def test_undo_to_the_last_run_and_to_the_first(dom0):
    """R92. The second one of each says nothing and does nothing."""
    machine, before = dom0
    for to, was in (("last", before[1]), ("first", before[0])):
        code, done = machine.run(to=to)
        assert (code, bool(done)) == (0, True)
        globals_, qubes = was
        assert machine.settings(qubes) == (globals_, qubes)
        machine.machine.forget_calls()
        assert machine.run(to=to) == (0, [])
        assert [call for call in machine.machine.calls() if call.write] == []


@pytest.mark.parametrize(("kill", "at"), KILLS)
def test_undo_killed_in_the_middle_is_finished_by_the_next(dom0, kill, at):
    """R92."""
    machine, (fresh, _) = dom0
    machine.machine.fail(write=True, at=at, kill=kill)
    assert machine.run(to="first")[0] == -9
    assert machine.run(to="first")[0] == 0
    assert machine.settings(fresh[1]) == fresh
    assert machine.run(to="first") == (0, [])
