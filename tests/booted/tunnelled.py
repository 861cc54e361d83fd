# SPDX-License-Identifier: GPL-2.0-or-later
"""A VPN qube in the booted lab: its template, its profiles, what it says, the formula's states."""

import codecs
import json
import time
from pathlib import Path
from typing import Any

import salt.config
import salt.loader
from in_qube import run_in
from provider import PASSWORD, USER, Provider
from saltfactories.utils.functional import Loaders

import qubes_vpn_model
import qubes_vpn_part
from qubes_vpn_formula.lab import services, tunnelfiles
from qubes_vpn_formula.lab.booted.machine import AppVM, Booted, Template
from qubes_vpn_formula.lab.killswitches import Ours
from qubes_vpn_formula.lab.qube import Qube
from qubes_vpn_formula.masterless import Masterless

PROGRAM = "/usr/lib/qubes-vpn/tunnel"
CREDENTIALS = "/rw/config/vpn/credentials"
_PACKAGES = [
    "network-manager",
    "network-manager-openvpn",
    "conntrack",
    "dbus",
    "nftables",
    "python3",
    "wireguard-tools",
]


def template(lab: Booted) -> Template:
    """A template with all that the formula puts there."""
    made = lab.template("t-vpn")
    made.install(["--no-install-recommends", *_PACKAGES])
    for path, (text, mode) in (Ours().files() | tunnelfiles.files() | services.files()).items():
        made.write(path, text, mode)
    units = (*Ours().units, *tunnelfiles.UNITS)
    made.run(["systemctl", "enable", *(unit.rpartition("/")[2] for unit in units)])
    made.stop()
    return made


def put_profiles(qube: AppVM, provider: Provider) -> None:
    """The profiles of its first two servers, as a user puts them there."""
    qube.run(["install", "-d", "-m700", CREDENTIALS])
    for number, name in enumerate(("one", "two"), 1):
        qube.write(f"{CREDENTIALS}/{name}.ovpn", provider.profile(number), 0o600)
        qube.write(f"{CREDENTIALS}/{name}.auth", f"{USER}\n{PASSWORD}\n", 0o600)


def said(qube: AppVM) -> dict[str, Any]:
    """What its `tunnel status` says."""
    done = qube.run([PROGRAM, "status", "--json"], check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def up(qube: AppVM, profile: str, timeout: float = 30) -> None:
    """Waits until the tunnel is up with this profile, and its server answers in it."""
    number = {"one": 1, "two": 2, "six": 3}[profile.partition(".")[0]]
    until = time.monotonic() + timeout
    while True:
        status = said(qube)
        if (status["state"], status["profile"]) == ("up", profile) and pings(qube, number):
            return
        assert time.monotonic() < until, (status, qube.journal("-u", "NetworkManager")[-3000:])
        time.sleep(0.2)


def pings(qube: Qube, number: int) -> bool:
    """Whether this server answers through its tunnel."""
    words = ["ping", "-c1", "-W1", "-n", f"10.64.{number}.1"]
    return qube.run(words, check=False).returncode == 0


def openvpn(qube: AppVM) -> str:
    """Process ids of OpenVPN in it, or nothing."""
    return qube.run("pidof openvpn", check=False).stdout.strip()


def state_functions(folder: Path) -> dict[bool, Any]:
    """By `test`: Salt's own loader of states, for functions to be run inside a qube."""
    minion = Masterless(folder).prepare(id="sys-vpn")
    loaders = Loaders(salt.config.minion_config(str(minion.folder / "minion")))
    functions = {
        test: salt.loader.states(
            {**loaders.opts, "test": test}, loaders.modules, loaders.utils, loaders.serializers
        )
        for test in (False, True)
    }
    for loaded in functions.values():
        assert "qubes_vpn.tunnel" in loaded  # now: in the qube's files there is no such module
    # In the qube's files there is no Python of this version to load them from.
    for codec in ("ascii", "utf-8-sig", "idna"):
        codecs.lookup(codec)
    return functions


def apply(document: dict[str, Any], functions: Any, qube: AppVM) -> None:
    """The formula's states for a qube, in their order, run in it.

    document: the pillar `qubes_vpn`.  functions: of :func:`state_functions`.
    """
    model, problems = qubes_vpn_model.read(document)
    assert not problems, [problem.text() for problem in problems]
    role, args = qubes_vpn_part.part(model, qube.name)
    assert role == "qube"
    for what, arguments in args.items():
        done = run_in(qube, _state, functions[f"qubes_vpn.{what}"], arguments)
        assert done["result"] is True, (what, done)


def _state(function: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    return function(**arguments)
