# SPDX-License-Identifier: GPL-2.0-or-later
"""The restated agent, from inside the qube that it works in."""

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from qubesdb import QubesDB

from qubes_vpn_formula.lab.agent import NETVM_MAC
from qubes_vpn_formula.lab.agent.restated import Restated
from qubes_vpn_formula.lab.qube import Inside

if TYPE_CHECKING:
    from qubes_vpn_formula.lab.qube import Qube

_FLAGS = Path("/run/qubes-service")
_CONNECTIONS = Path("/etc/NetworkManager/system-connections")


class Here(Inside):
    """This qube, as the agent knows qubes."""

    def __init__(self) -> None:
        super().__init__(socket.gethostname(), os.getpid(), ["pid"])

    @property
    def qubesdb(self) -> dict[str, str]:
        """What dom0 says now."""
        return {key: value.decode() for key, value in QubesDB().multiread("/").items()}


class Agent(Restated):
    """Restated, where systemd runs qubes-firewall and NetworkManager may have the uplink."""

    def uplink(self, qube: "Qube", device: str) -> None:
        """`setup-ip add`: with the service network-manager it is that one's to configure."""
        if not (_FLAGS / "network-manager").exists() or not Path("/usr/bin/nmcli").exists():
            super().uplink(qube, device)
            return
        database = qube.qubesdb
        profile = _CONNECTIONS / f"qubes-uplink-{device}"
        profile.parent.mkdir(parents=True, exist_ok=True)
        profile.write_text(_profile(database, device), encoding="utf-8")
        profile.chmod(0o600)
        lines = [f"link set dev {device} group 1"]
        for key in ("", "6"):
            if gateway := database.get(f"/qubes-gateway{key}"):
                neighbour = f"neighbour replace {gateway} dev {device}"
                lines.append(f"{neighbour} lladdr {NETVM_MAC} nud permanent")
        qube.run(["nmcli", "connection", "load", str(profile)], check=False)
        # NetworkManager's own part; but a veth that came later it leaves to whoever has made it.
        lines.append(f"link set dev {device} up")
        qube.run(["ip", "-batch", "-"], input="\n".join(lines))
        if "/qubes-netvm-network" in database:
            self.dnat(qube)
            self.ip_changed(qube)

    def firewall_reload(self, qube: "Qube") -> None:
        """Another process' work, unless this is that one."""
        if qube.name in self._workers:
            super().firewall_reload(qube)
        else:
            service = "qubes-firewall.service"
            qube.run(["systemctl", "--no-block", "try-reload-or-restart", service], check=False)


def _profile(database: dict[str, str], device: str) -> str:
    """The keyfile that Qubes writes at each start."""
    mac = Path(f"/sys/class/net/{device}/address").read_text("ascii").strip().upper()
    dns = f"dns={database['/qubes-primary-dns']};{database['/qubes-secondary-dns']}"
    text = f"""[802-3-ethernet]
duplex=full

[ethernet]
mac-address={mac}

[connection]
id=VM uplink {device}
uuid=de85f79b-8c3d-405f-a652-{mac.replace(":", "").lower()}
type=802-3-ethernet
[ipv4]
method=manual
may-fail=false

{dns}
addresses1={database["/qubes-ip"]};32;{database["/qubes-gateway"]}
"""
    if "/qubes-ip6" not in database:
        return text + "[ipv6]\nmethod=ignore\n"
    ours = f"{database['/qubes-ip6']};128;{database['/qubes-gateway6']}"
    return text + f"[ipv6]\nmethod=manual\nmay-fail=false\n\naddresses1={ours}\n"


class Firewall:
    """qubes-firewall.service: follows QubesDB until it is told to stop."""

    def __init__(self, agent: Agent, qube: Here) -> None:
        self._agent, self._qube = agent, qube
        self._database = QubesDB()
        self._reload = self._stop = False

    def run(self) -> None:
        """Start, say so, follow; the tables go at the end."""
        for path in ("/qubes-firewall/", "/connected-ips", "/connected-ips6"):
            self._database.watch(path)
        self._agent.firewall_start(self._qube)
        _notify("READY=1")
        while not self._stop:
            try:
                self._database.read_watch()
                self._agent.firewall_changed(self._qube)
            except InterruptedError:
                if self._reload:
                    self._reload = False
                    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
                    _notify(f"RELOADING=1\nMONOTONIC_USEC={now}")
                    self._agent.firewall_reload(self._qube)
                    _notify("READY=1")
        self._agent.firewall_stop(self._qube)

    def reload(self, *_: object) -> None:
        """SIGHUP."""
        self._reload = True

    def stop(self, *_: object) -> None:
        """SIGTERM."""
        self._stop = True


def _notify(state: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
        channel.send(state.encode())
