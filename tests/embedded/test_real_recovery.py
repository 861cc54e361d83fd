# SPDX-License-Identifier: GPL-2.0-or-later
"""The real client is killed within a plan; the next run puts it right. Needs QUBES_SRC."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.embedded.server import serving

HERE = Path(__file__).parent
PILLAR = {
    "tunnels": {
        "sys-vpn": {"kind": "wireguard", "profile": "wg.conf", "endpoints": ["192.0.2.1:51820/udp"]}
    }
}
KILLS = [
    {"method": "admin.vm.CreateInPool.TemplateVM", "kill": "before"},
    {"method": "admin.vm.CreateInPool.TemplateVM", "kill": "in"},
    {"method": "admin.vm.CreateInPool.TemplateVM", "at": 2, "kill": "after"},
    {"dest": "t-vpn", "method": "admin.vm.tag.Set", "kill": "before"},
    {"dest": "t-vpn", "method": "admin.vm.volume.CloneTo", "arg": "private", "kill": "after"},
    {"dest": "t-vpn", "method": "admin.vm.volume.CloneTo", "arg": "root", "kill": "before"},
    {"dest": "t-vpn", "method": "admin.vm.volume.CloneTo", "arg": "root", "kill": "in"},
    {"method": "admin.vm.Create.AppVM", "kill": "in"},
    {"dest": "sys-vpn", "method": "admin.vm.property.Set", "arg": "netvm", "kill": "before"},
]


@pytest.fixture
def run(real_client, tmp_path):
    """Applies the pillar; answers the exit status."""
    socket = tmp_path / "qubesd.sock"

    def apply(machine):
        with serving(socket, machine):
            return subprocess.run(
                [sys.executable, HERE / "run_plan.py", socket],
                env={**os.environ, "PYTHONPATH": str(real_client), "PYTHONDONTWRITEBYTECODE": "1"},
                input=json.dumps(PILLAR),
                text=True,
                check=False,
            ).returncode

    return apply


def qubes(machine):
    """What there is, without what differs between any two machines."""
    found = machine.snapshot()["qubes"]
    for qube in found.values():
        for key in ("qid", "uuid"):
            qube["properties"].pop(key, None)
        qube["volumes"] = {key: volume["used"] for key, volume in qube["volumes"].items()}
    return found


def test_killed_by_the_real_client_and_put_right(run, real_release, tmp_path):
    """R92. Its clone_vm, too."""
    undisturbed = EmbeddedQubes(tmp_path / "undisturbed.json", real_release)
    assert run(undisturbed) == 0
    assert qubes(undisturbed)["t-vpn"]["volumes"]["root"] > 0
    for number, fault in enumerate(KILLS):
        machine = EmbeddedQubes(tmp_path / f"{number}.json", real_release)
        machine.fail(**fault)
        assert run(machine) == -9, fault
        assert run(machine) == 0, fault
        assert qubes(machine) == qubes(undisturbed), fault
        assert not machine.path.with_name(f"{machine.path.name}.faults").exists(), fault
