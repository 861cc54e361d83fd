# SPDX-License-Identifier: GPL-2.0-or-later
"""dom0 of booted qubes: real Salt on the embedded Qubes, which asks them by its own services.

For its tests somebody in the internet tells everyone the address that he sees, as a provider's
check does.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from qubes_vpn_formula.embedded.machine import EmbeddedQubes
from qubes_vpn_formula.lab import qrexec
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted
from qubes_vpn_formula.lab.qube import Inside, Qube
from qubes_vpn_formula.masterless import Applied, Masterless

_CHECK = Path(__file__).with_name("check_server.py")
URL = "http://203.0.113.80/json"
NETWORK = "qubes.network.sys-vpn"
#: Seconds for a run of Salt.
_PATIENCE = 600


class Dom0:
    """A dom0 whose machine is as the pillar says; which qubes run says :meth:`runs`."""

    def __init__(self, folder: Path, pillar: dict[str, Any]) -> None:
        self._folder, self.pillar = folder, pillar
        self.running: dict[str, Inside] = {}
        self.dom0 = EmbeddedQubes(folder / "qubes.json", "4.3")
        self._minion = Masterless(folder / "salt").prepare()
        applied = self.salt(NETWORK)
        assert applied.results() <= {True}, applied.text

    def runs(self, name: str, qube: Inside) -> None:
        """A qube that dom0 knows is this one, and runs."""
        self.running[name] = qube
        if "Running" not in self.dom0.call(name, "admin.vm.CurrentState").decode():
            self.call(name, "admin.vm.Start")
        if isinstance(qube, Qube):
            self.call(name, "admin.vm.property.Set", "ip", qube.qubesdb["/qubes-ip"])

    def call(self, name: str, method: str, argument: str = "", payload: str = "") -> None:
        """The user does something in dom0."""
        self.dom0.call(name, method, argument, payload.encode())

    def salt(
        self, sls: str, *more: str, qubes: Mapping[str, Inside] | None = None, **pillar: Any
    ) -> Applied:
        """What a run of an SLS gives; qubes: others than those that run."""
        done = self._done(self.process(sls, *more, qubes=qubes, **pillar))
        return Applied.read(done, "local")

    def asked(self, function: str, *words: str, **pillar: Any) -> Any:
        """What one of our functions returns, `qubes_vpn.FUNCTION`."""
        done = self._done(self._started(f"qubes_vpn.{function}", *words, **pillar))
        try:
            return json.loads(done.stdout)["local"]
        except ValueError:
            raise AssertionError(done.stdout + done.stderr) from None

    def found(self) -> set[str]:
        """The doctor's checks that find something."""
        return {finding["rule"] for finding in self.asked("doctor", "data")["findings"]}

    def process(
        self, sls: str, *more: str, qubes: Mapping[str, Inside] | None = None, **pillar: Any
    ) -> Any:
        """A run of an SLS that goes on."""
        return self._started("state.sls", sls, *more, qubes=qubes, **pillar)

    def _started(
        self, *words: str, qubes: Mapping[str, Inside] | None = None, **pillar: Any
    ) -> Any:
        self._minion.set_pillar(json.dumps({"qubes_vpn": {**self.pillar, **pillar}}))
        environ = self._minion.environ(self.dom0.path)
        there = {**self.running, **(qubes or {})}
        environ["QUBES_VPN_QREXEC"] = str(qrexec.client(self._folder, there))
        function, *more = words
        return subprocess.Popen(
            self._minion.command(function, *more, "--out=json"),
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _done(self, process: Any) -> Any:
        out, error = process.communicate(timeout=_PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)

    def verdicts(self, sls: str, *more: str, **options: Any) -> dict[str, str]:
        """``{test: verdict}`` of one SLS of tests."""
        return {name: text.partition("\n")[0] for name, text in self.told(sls, *more, **options)}

    def told(self, sls: str, *more: str, **options: Any) -> list[tuple[str, str]]:
        """What each test says."""
        applied = self.salt(f"qubes.tests.{sls}", *more, **options)
        assert applied.states, applied.text
        return [(name, state["comment"]) for name, state in applied.states.items()]


class Machine(Protocol):
    """What is tested.  nearest: whose client `work` is.  qubes: all others that run, by name."""

    lab: Booted
    document: dict[str, Any]
    client: Qube

    @property
    def nearest(self) -> AppVM: ...

    @property
    def qubes(self) -> dict[str, Inside]: ...


class Verifying(Dom0):
    """A machine that runs, as the pillar says, with a second client; its dom0 runs tests."""

    def __init__(self, machine: Machine, folder: Path, url: str = URL) -> None:
        self.machine = machine
        nearest = machine.nearest
        self.neighbour = machine.lab.client("personal", netvm=nearest)
        self._server = machine.lab.internet.popen([sys.executable, str(_CHECK)])
        pillar = {
            **machine.document,
            "routes": {"qubes": {"work": nearest.name, "personal": nearest.name}},
            "vaults": ["vault"],
            "tests": {
                "checks": {"sys-vpn": {"url": url, "address": "ip", "provider": "exit"}},
                "clients": ["work"],
            },
        }
        super().__init__(folder, pillar)
        for name, qube in machine.qubes.items():
            self.runs(name, qube)
        self.runs("work", machine.client)
        self.runs("personal", self.neighbour)
