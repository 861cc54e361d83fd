# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0's tests of the machine in `resolving.py`: the embedded Qubes is its dom0.

Somebody in the internet tells everyone the address that he sees, as a provider's check does.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resolving import Machine

from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.lab import qrexec
from qubes_vpn_formula.lab.qube import Inside
from qubes_vpn_formula.masterless import Applied, Masterless

_CHECK = Path(__file__).with_name("check_server.py")
URL = "http://203.0.113.80/json"
NETWORK = "qubes.network.sys-vpn"


class Verifying:
    """A machine that runs, as the pillar says; its dom0 runs tests."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self.machine, self._folder = machine, folder
        self.neighbour = machine.lab.client("personal", netvm=machine.dns)
        self._server = machine.lab.internet.popen([sys.executable, str(_CHECK)])
        self.pillar = {
            **machine.document,
            "routes": {"qubes": {"work": "sys-dns", "personal": "sys-dns"}},
            "vaults": ["vault"],
            "tests": {
                "checks": {"sys-vpn": {"url": URL, "address": "ip", "provider": "exit"}},
                "clients": ["work"],
            },
        }
        self.dom0 = EmbeddedQubes(folder / "qubes.json", "4.3")
        self._minion = Masterless(folder / "salt").prepare()
        applied = self.salt(NETWORK)
        assert applied.results() <= {True}, applied.text
        self.running = {
            "sys-net": machine.net,
            "sys-vpn": machine.vpn,
            "sys-dns": machine.dns,
            "work": machine.client,
            "personal": self.neighbour,
        }
        for name, qube in self.running.items():
            self._start(name)
            if name in ("work", "personal"):
                self.call(name, "admin.vm.property.Set", "ip", qube.qubesdb["/qubes-ip"])

    def call(self, name: str, method: str, argument: str = "", payload: str = "") -> None:
        """The user does something in dom0."""
        self.dom0.call(name, method, argument, payload.encode())

    def _start(self, name: str) -> None:
        if "Running" not in self.dom0.call(name, "admin.vm.CurrentState").decode():
            self.call(name, "admin.vm.Start")

    def salt(
        self, sls: str, *more: str, qubes: Mapping[str, Inside] | None = None, **pillar: Any
    ) -> Applied:
        """What a run of an SLS in dom0 gives; qubes: others than those that run."""
        self._minion.set_pillar(json.dumps({"qubes_vpn": {**self.pillar, **pillar}}))
        done = self.process(sls, *more, qubes=qubes)
        out, error = done.communicate(timeout=600)
        done.stdout, done.stderr = out, error
        return Applied.read(done, "local")

    def process(self, sls: str, *more: str, qubes: Mapping[str, Inside] | None = None) -> Any:
        """The same, still running."""
        environ = self._minion.environ(self.dom0.path)
        if hasattr(self, "running"):
            there = {**self.running, **(qubes or {})}
            environ["QUBES_VPN_QREXEC"] = str(qrexec.client(self._folder, there))
        command = self._minion.command("state.sls", sls, "--out=json", *more)
        return subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def verdicts(self, sls: str, *more: str, **options: Any) -> dict[str, str]:
        """``{test: verdict}`` of one SLS of tests."""
        return {name: text.partition("\n")[0] for name, text in self.told(sls, *more, **options)}

    def told(self, sls: str, *more: str, **options: Any) -> list[tuple[str, str]]:
        applied = self.salt(f"qubes.tests.{sls}", *more, **options)
        assert applied.states, applied.text
        return [(name, state["comment"]) for name, state in applied.states.items()]
