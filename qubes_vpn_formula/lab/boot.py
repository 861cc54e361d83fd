# SPDX-License-Identifier: GPL-2.0-or-later
"""A qube's boot, unit by unit, in an order that systemd could choose.

Units are data.  Qubes' own are restated here (core-agent-linux 4.4, vm-systemd/); a killswitch's
are parsed from the files that it installed.  All units given count as enabled.
"""

import shlex
import subprocess
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from qubes_vpn_formula.lab.agent import Agent
from qubes_vpn_formula.lab.qube import CommandFailed, Qube

#: What became of a unit.  "skipped": its condition does not hold, which systemd counts as success.
STARTED, SKIPPED, FAILED, DEPENDENCY = "started", "skipped", "failed", "dependency"


@dataclass(frozen=True)
class Unit:
    """A systemd unit.

    conditions: paths of ConditionPathExists, a leading `!` negates.
    commands: ExecStart lines, run in the qube.  stops: ExecStop lines.
    action: what is done instead, for Qubes' own.
    default: DefaultDependencies; such a unit comes after sysinit.target, which it requires.
    stays: Type=exec; its commands are started and not waited for.
    """

    name: str
    after: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    required_by: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    stops: tuple[str, ...] = ()
    action: Callable[[], None] | None = None
    default: bool = True
    stays: bool = False


def parse(name: str, text: str) -> Unit:
    """A unit from its file.  Only what :class:`Unit` has is read; a `\\` continues a line."""
    values: dict[str, list[str]] = defaultdict(list)
    for line in text.replace("\\\n", " ").splitlines():
        key, equals, value = line.strip().partition("=")
        if not equals or key[0] in "#;":
            continue
        if value.strip():
            values[key.strip()].append(value.strip())
        else:
            values[key.strip()] = []  # an empty value takes back what was listed

    def names(key: str) -> tuple[str, ...]:
        return tuple(word for value in values[key] for word in value.split())

    return Unit(
        name,
        after=names("After"),
        before=names("Before"),
        requires=names("Requires") + names("BindsTo"),
        required_by=names("RequiredBy"),
        conditions=tuple(values["ConditionPathExists"]),
        commands=tuple(values["ExecStartPre"] + values["ExecStart"]),
        stops=tuple(values["ExecStop"]),
        default=values["DefaultDependencies"][-1:] != ["no"],
        stays=values["Type"][-1:] == ["exec"],
    )


@dataclass(frozen=True)
class Hardware:
    """What the boot of a qube does outside the agent.

    uplink: the device towards the netvm, or None.  coldplug: udev for the devices that there are.
    attach: Xen connects the clients.  tunnel: the VPN program, as NetworkManager starts it.
    """

    uplink: str | None
    coldplug: Callable[[], None]
    attach: Callable[[], None]
    tunnel: Callable[[], None]


def qubes_units(agent: Agent, qube: Qube, hardware: Hardware) -> list[Unit]:
    """Qubes' own units of a networked qube."""
    uplink = f"qubes-network-uplink@{hardware.uplink}.service"
    # udev starts it when there is such a device
    device = f"/sys/class/net/{hardware.uplink}"
    before_net = {"before": ("network-pre.target",), "required_by": ("network-pre.target",)}
    early = ("sysinit.target",)
    return [
        Unit(
            "qubes-sysinit.service",
            before=early,
            action=lambda: _services(qube),
            default=False,
        ),
        Unit(
            "qubes-mount-dirs.service",
            after=("qubes-sysinit.service",),
            before=("local-fs.target",),
            action=lambda: show_rw(qube),
            default=False,
        ),
        Unit("local-fs.target", before=early, default=False),
        Unit(
            "systemd-udev-trigger.service",
            after=("qubes-sysinit.service",),
            before=early,
            action=hardware.coldplug,
            default=False,
        ),
        Unit("sysinit.target", default=False),
        Unit("qubes-antispoof.service", **before_net, action=lambda: agent.antispoof(qube)),
        Unit(
            "qubes-iptables.service",
            after=("qubes-antispoof.service",),
            requires=("qubes-antispoof.service",),
            **before_net,
            action=lambda: agent.base(qube),
        ),
        Unit("network-pre.target", default=False),
        Unit(
            uplink,
            after=("network-pre.target",),
            requires=("network-pre.target",),
            before=("network.target",),
            conditions=(device,),
            action=lambda: agent.uplink(qube, hardware.uplink),
        ),
        Unit("xendriverdomain.service", action=hardware.attach),
        Unit(
            "qubes-firewall.service",
            after=("qubes-iptables.service",),
            before=("qubes-network.service",),
            conditions=("/run/qubes-service/qubes-firewall",),
            action=lambda: agent.firewall_start(qube),
        ),
        Unit(
            "qubes-network.service",
            after=("network-pre.target", "qubes-iptables.service"),
            before=("network.target",),
            conditions=("/run/qubes-service/qubes-network",),
            action=lambda: agent.network(qube),
        ),
        Unit("network.target"),
        Unit(
            "NetworkManager.service",
            after=("qubes-mount-dirs.service", uplink),
            before=("network.target",),
            action=hardware.tunnel,
        ),
        Unit(
            "qubes-misc-post.service",
            after=("network-pre.target", "qubes-network.service", "qubes-firewall.service"),
            action=lambda: _rc_local(qube),
        ),
    ]


def play(
    qube: Qube,
    units: Iterable[Unit],
    *,
    stop_after: str | None = None,
    without: Collection[str] = (),
    late: Collection[str] = (),
    between: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Boot a qube; the answer is what became of each unit, in the order in which they came.

    stop_after: the unit after which nothing more starts.  without: units that do not exist.
    late: units that take as long as the others let them: everything else that may, goes first.
    between: called with a unit's name after it, so that somebody can look into the window.

    Raises ValueError for units that wait for each other.
    """
    present = {unit.name: unit for unit in _linked(units) if unit.name not in without}
    outcomes: dict[str, str] = {}
    for name in _order(present, set(late)):
        unit = present[name]
        missing = [other for other in unit.requires if other not in present]
        broken = [
            other
            for other in unit.requires
            if other in unit.after and outcomes.get(other) in (FAILED, DEPENDENCY)
        ]
        outcomes[name] = DEPENDENCY if missing or broken else _start(qube, unit)
        if between:
            between(name)
        if name == stop_after:
            break
    return outcomes


def stop(qube: Qube, unit: Unit) -> None:
    """`systemctl stop`: whatever its commands answer, the unit counts as stopped."""
    for line in unit.stops:
        qube.run(shlex.split(line.removeprefix("-")), check=False, timeout=120)


def hide_rw(qube: Qube) -> None:
    """/rw as it is before qubes-mount-dirs: empty.  What was written there comes with the mount."""
    qube.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "unmounted", "/rw"])


def show_rw(qube: Qube) -> None:
    """qubes-mount-dirs: the qube's own /rw."""
    qube.run("! grep -q '^unmounted /rw ' /proc/mounts || umount /rw")


def _linked(units: Iterable[Unit]) -> list[Unit]:
    """The units with every relation written at the one that waits: After and Requires."""
    listed = list(units)
    after: dict[str, list[str]] = defaultdict(list)
    requires: dict[str, list[str]] = defaultdict(list)
    for unit in listed:
        for other in unit.before:
            after[other].append(unit.name)
        for other in unit.required_by:
            requires[other].append(unit.name)
        if unit.default:
            after[unit.name].append("sysinit.target")
            requires[unit.name].append("sysinit.target")
    return [
        replace(
            unit,
            after=(*unit.after, *after[unit.name]),
            requires=(*unit.requires, *requires[unit.name]),
        )
        for unit in listed
    ]


def _order(units: dict[str, Unit], late: set[str]) -> Iterable[str]:
    """Each after those it waits for; among those that may start as listed, late ones last."""
    waiting = sorted(units, key=lambda name: name in late)
    done: set[str] = set()
    while waiting:
        ready = next(
            (name for name in waiting if not set(units[name].after) & (units.keys() - done)), None
        )
        if ready is None:
            raise ValueError(f"units wait for each other: {', '.join(waiting)}")
        waiting.remove(ready)
        done.add(ready)
        yield ready


def _start(qube: Qube, unit: Unit) -> str:
    for condition in unit.conditions:
        if qube.exists(condition.removeprefix("!")) == condition.startswith("!"):
            return SKIPPED
    try:
        if unit.action:
            unit.action()
        for line in unit.commands:
            may_fail, words = line.startswith("-"), shlex.split(line.removeprefix("-"))
            if unit.stays:
                qube.popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            else:
                qube.run(words, check=not may_fail, timeout=120)
    except CommandFailed:
        return FAILED
    return STARTED


def _services(qube: Qube) -> None:
    """qubes-sysinit: a file for each service that dom0 switched on."""
    prefix = "/qubes-service/"
    on = [key for key, value in qube.qubesdb.items() if key.startswith(prefix) and value == "1"]
    if on:
        qube.run(["touch", *(f"/run{key}" for key in on)])


def _rc_local(qube: Qube) -> None:
    qube.run(
        # What it leaves running in the background is not waited for.
        "exec >/dev/null 2>&1; [ -e /run/qubes-service/custom-persist ] ||"
        " [ ! -x /rw/config/rc.local ] || /rw/config/rc.local",
        check=False,
    )
