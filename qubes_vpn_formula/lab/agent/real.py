# SPDX-License-Identifier: GPL-2.0-or-later
"""Qubes' own rules and scripts, from a checkout, unchanged (see :mod:`.checkout`).

What they cannot have here: Xen (their drivers and the store are files), a desktop to notify, and
on some kernels flowtables.  A qube's file /run/no-flowtable says when the last is so.
"""

import re
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

from qubes_vpn_formula.lab.agent import CLIENT_MAC, checkout, unitfiles
from qubes_vpn_formula.lab.agent.dom0 import Dom0
from qubes_vpn_formula.lab.agent.worker import Worker
from qubes_vpn_formula.lab.boot import Unit
from qubes_vpn_formula.lab.qube import Qube

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: qubes-setup-dnat-to-ns: the rules are as they were.
_UNCHANGED = 100


class Real:
    """An :class:`qubes_vpn_formula.lab.agent.Agent`.

    source: the checkout.  patience: seconds after which systemd gives up on qubes-firewall's start.
    """

    def __init__(self, source: Path, patience: float = 90) -> None:
        self.patience = patience
        self._source = source
        self._dom0: WeakKeyDictionary[Qube, Dom0] = WeakKeyDictionary()
        self._workers: WeakKeyDictionary[Qube, Worker] = WeakKeyDictionary()

    def arrange(self, units: list[Unit]) -> list[Unit]:
        """The relations of the checkout's unit files."""
        return unitfiles.arranged(self._source, units)

    def antispoof(self, qube: Qube) -> None:
        """qubes-antispoof.service."""
        self._run(qube, "/usr/sbin/nft", "-f", "/etc/qubes/qubes-antispoof.nft")

    def base(self, qube: Qube) -> None:
        """qubes-iptables.service."""
        self._run(qube, "/usr/lib/qubes/init/qubes-iptables", "start")

    def firewall_start(self, qube: Qube) -> None:
        """qubes-firewall.service; returns a little later than the unit: with the rules loaded."""
        self._told(qube).start(self.patience)

    def firewall_restart(self, qube: Qube) -> None:
        """SIGTERM, then a start."""
        worker = self._told(qube)
        worker.stop()
        worker.start(self.patience)

    def firewall_reload(self, qube: Qube) -> None:
        """SIGHUP."""
        self._told(qube).reload()

    def firewall_kill(self, qube: Qube) -> None:
        """SIGKILL; systemd would start it again five seconds later, here the caller does."""
        self._told(qube).kill()

    def firewall_changed(self, qube: Qube) -> None:
        """The worker watches QubesDB; returns when it has loaded what is new there."""
        self._told(qube)

    def network(self, qube: Qube) -> None:
        """qubes-network.service."""
        self._run(qube, "/usr/lib/qubes/init/network-proxy-setup.sh")

    def uplink(self, qube: Qube, device: str) -> None:
        """qubes-network-uplink@DEVICE.service."""
        self._run(qube, "/usr/lib/qubes/setup-ip", "add", device)

    def vif(
        self, qube: Qube, device: str, addresses: list[str], command: Literal["online", "offline"]
    ) -> None:
        """The hotplug script, with what libxl tells it."""
        domain, number = re.fullmatch(r"vif(\d+)\.(\d+)", device).groups()
        store = f"backend/vif/{domain}/{number}"
        values = {"ip": " ".join(addresses), "mac": CLIENT_MAC, "type": "vif"}
        for key, value in values.items():
            qube.write(f"/run/xenstore/{store}/{key}", value)
        self._run(
            qube,
            *("env", f"PATH={checkout.VIF_PATH}:{_PATH}", f"XENBUS_PATH={store}", f"vif={device}"),
            *("/etc/xen/scripts/vif-route-qubes", command, "type_if=vif"),
        )

    def dnat(self, qube: Qube) -> None:
        """qubes-setup-dnat-to-ns, which exits with 100 when nothing has to change.

        Returns when the reload that it asks for without waiting is over too.
        """
        script = f"/usr/lib/qubes/qubes-setup-dnat-to-ns || [ $? -eq {_UNCHANGED} ]"
        self._run(qube, "sh", "-c", script)

    def _run(self, qube: Qube, *words: str) -> None:
        worker = self._told(qube)
        qube.run(["env", f"PYTHONPATH={checkout.PYTHON}", *words])
        worker.settle()

    def _told(self, qube: Qube) -> Worker:
        """The qube's worker, after the qube has the agent and has been told what dom0 says now."""
        if qube not in self._dom0:
            checkout.install(self._source, qube)
            # qubes-sysinit's last act; without it every question for a service waits ten seconds.
            qube.write("/run/qubes-service-environment", "\n")
            self._dom0[qube] = Dom0(qube)
            environment = {"PATH": _PATH, "LANG": "C.UTF-8", "PYTHONPATH": checkout.PYTHON}
            self._workers[qube] = Worker(qube, environment, self._dom0[qube].database)
        self._dom0[qube].tell()
        self._workers[qube].settle()
        return self._workers[qube]
