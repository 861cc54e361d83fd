# SPDX-License-Identifier: GPL-2.0-or-later
"""A VPN qube and a template that Salt gives the killswitch: real Salt, real nft."""

from pathlib import Path
from typing import Any

import yaml
from in_qube import run_in

from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.masterless import Applied, Masterless

SLS = "qubes.network.sys-vpn"


class Minion:
    """A qube in which Salt runs as minion `name`; options: more of its configuration."""

    def __init__(self, qube: Qube, folder: Path, name: str, **options: Any) -> None:
        self.qube = qube
        folder.mkdir(exist_ok=True)
        self._salt = Masterless(folder).prepare(id=name, grains_cache=True, **options)

    def call(self, *args: str) -> tuple[int, str]:
        """One `salt-call ARGS`: its exit code, and all that it printed."""
        done = self.qube.run(self._salt.command(*args), check=False, timeout=120)
        return done.returncode, done.stdout + done.stderr

    def apply(self, pillar: dict[str, Any], test: bool = False) -> Applied:
        """`state.sls qubes.network.sys-vpn`."""
        self._salt.set_pillar(yaml.safe_dump({"qubes_vpn": pillar}))
        words = ["state.sls", SLS, f"test={test}", "--out=json", "--log-level=quiet"]
        done = self.qube.run(self._salt.command(*words), check=False, timeout=120)
        return Applied.read(done, "local")


def rules(qube: Qube) -> str:
    """Everything that is loaded, without counters; with handles, which are new after each load."""
    return qube.run("nft --handle --stateless list ruleset").stdout


def written(qube: Qube) -> set[str]:
    """Files and links that are not the machine's: what somebody wrote in the qube."""
    etc = ("qubes", "qubes-rpc", "systemd/system", "udev/rules.d", "NetworkManager/dispatcher.d")
    find = " ".join(["find /rw /usr/lib/qubes-vpn", *(f"/etc/{folder}" for folder in etc)])
    return set(qube.run(f"{find} -type f -o -type l 2>/dev/null", check=False).stdout.split())


def listing(qube: Qube) -> str:
    """Names, modes, owners, times and sums of all that can be written."""
    find = (
        "find /rw /usr/lib/qubes-vpn /etc/qubes /etc/systemd /etc/udev /etc/NetworkManager"
        r" -printf '%p %m %u %T@ %l\n'"
    )
    return qube.run(f"({find}; find /rw -type f -exec md5sum {{}} +) 2>&1 | sort").stdout


def eth0(qube: Qube) -> None:
    """An uplink that is up, with somebody on its other side."""
    qube.run("ip netns add other; ip link add eth0 type veth peer name eth0 netns other")
    qube.run("ip -n other link set eth0 up; ip link set eth0 up group 1")


class KillswitchState:
    """The state function itself, by Salt's real loader, in a qube and within milliseconds."""

    def __init__(self, loaded: dict[bool, Any]) -> None:
        self._loaded = loaded

    def __call__(self, qube: Qube, test: bool = False, uid: int = 0, **arguments: Any) -> Any:
        given = {
            "name": "sys-vpn",
            "endpoints": ["192.0.2.1:51820/udp"],
            "interface": "wg0",
            **arguments,
        }
        return run_in(qube, lambda: dict(self._loaded[test](**given)), uid=uid)
