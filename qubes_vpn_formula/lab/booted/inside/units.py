# SPDX-License-Identifier: GPL-2.0-or-later
"""Qubes' units in a booted qube (core-agent-linux 4.4, vm-systemd/).

Those of :mod:`qubes_vpn_formula.lab.boot` as files for systemd, and those that only a booted qube
needs.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qubes_vpn_formula.lab.boot import Hardware, Unit, qubes_units

if TYPE_CHECKING:
    from qubes_vpn_formula.lab.agent import Agent
    from qubes_vpn_formula.lab.qube import Qube

UPLINK = "eth0"
_PROGRAM = "/usr/lib/qubes/agent"
#: Where the lab puts the private volume, which a real qube has as /dev/xvdb.
VOLUME = "/run/private-volume"
#: Ready at once when it is a oneshot, and for qubes-firewall when it says so.
_TYPES = {"qubes-firewall.service": f"Type=notify-reload\nExecStart={_PROGRAM} firewall\n"}
_EARLY = ("qubes-sysinit.service", "qubes-early-vm-config.service")
#: What a unit pulls in, which the lab's own model of a boot has anyway.
_WANTS = {"qubes-early-vm-config.service": "network-pre.target"}

_SYSINIT = """
mkdir -p /run/qubes /run/qubes-service
touch "/run/qubes/persistent-$(qubesdb-read /qubes-vm-persistence)"
"""
# What a new private volume gets, and the mounts that come from it.
_MOUNT = f"""set -e
mount --bind {VOLUME} /rw
mkdir -p /rw/config /rw/usrlocal /rw/home
[ -e /rw/config/rc.local ] || install -m 0755 /dev/null /rw/config/rc.local
[ -e /rw/config/qubes-firewall-user-script ] ||
    install -m 0755 /dev/null /rw/config/qubes-firewall-user-script
mount --bind /rw/home /home
mount --bind /rw/usrlocal /usr/local
"""
_BIND = r"""set -e
[ ! -e /run/qubes/persistent-full ] || exit 0
shopt -s nullglob
binds=()
for file in /usr/lib/qubes-bind-dirs.d/*.conf /etc/qubes-bind-dirs.d/*.conf \
    /rw/config/qubes-bind-dirs.d/*.conf; do
    case $file in /rw/*) [ ! -e /run/qubes-service/custom-persist ] || continue ;; esac
    . "$file"
done
for here in "${binds[@]}"; do
    here=$(realpath -m "$here")
    kept=/rw/bind-dirs$here
    if [ -e "$kept" ]; then
        if [ -d "$kept" ]; then
            mkdir -p "$here"
        else
            mkdir -p "${here%/*}"
            touch "$here"
        fi
    elif [ -e "$here" ]; then
        mkdir -p "${kept%/*}"
        cp --archive "$here" "$kept"
    else
        continue
    fi
    mount --bind "$kept" "$here"
done
"""
_EARLY_CONFIG = """
name=$(qubesdb-read /name)
hostname "$name"
sed -i "s/^\\(127\\.0\\.1\\.1 \\).*/\\1$name/" /etc/hosts
for script in /rw/config/rc.local-early.d/*.rc /rw/config/rc.local-early; do
    [ ! -f "$script" ] || [ ! -x "$script" ] || "$script" || :
done
"""
# NetworkManager's connections are kept in /rw.
_KEEP_CONNECTIONS = """#!/bin/sh
folder=/etc/NetworkManager/system-connections
if [ -d $folder ] && [ ! -h $folder ]; then
    mkdir -p /rw/config/NM-system-connections
    mv $folder/* /rw/config/NM-system-connections/ 2>/dev/null
    rmdir $folder
    ln -s /rw/config/NM-system-connections $folder
fi
exit 0
"""


def units(agent: "Agent", qube: "Qube") -> list[Unit]:
    """All of Qubes' units; each has its action."""
    hardware = Hardware(UPLINK, _nothing, lambda: _attach(agent, qube), _nothing)
    restated = {unit.name: unit for unit in qubes_units(agent, qube, hardware)}
    ours = [
        unit
        for name, unit in restated.items()
        if name.startswith("qubes-") or name == "xendriverdomain.service"
    ]
    sysinit, mount = "qubes-sysinit.service", "qubes-mount-dirs.service"
    relations = {
        # dom0 connects clients once the qube's agent answers, when this has long been done.  Here
        # they are connected before the boot, and a link that comes before its tables stays down.
        "xendriverdomain.service": ("qubes-antispoof.service",),
    }
    services = restated[sysinit].action
    actions = {
        sysinit: lambda: (qube.run(_SYSINIT), services()),
        mount: lambda: qube.run(_MOUNT),
    }
    return [
        *(
            replace(
                unit,
                action=actions.get(unit.name, unit.action),
                after=(*unit.after, *relations.get(unit.name, ())),
            )
            for unit in ours
        ),
        Unit(
            "qubes-bind-dirs.service",
            after=(mount, "local-fs.target"),
            before=("systemd-tmpfiles-setup.service",),
            requires=(mount,),
            action=lambda: qube.run(["bash", "-c", _BIND]),
            default=False,
        ),
        Unit(
            "qubes-early-vm-config.service",
            after=("local-fs.target", "qubes-sysinit.service"),
            before=("sysinit.target", "network-pre.target"),
            action=lambda: qube.run(_EARLY_CONFIG),
            default=False,
        ),
    ]


def files() -> dict[str, tuple[str, list[str]]]:
    """By name: the unit's text, and the folders that link to it because it is enabled."""
    found = {}
    for unit in units(None, None):
        links = [f"{name}.requires" for name in unit.required_by]
        wanted_by = "sysinit.target" if unit.name in _EARLY else "multi-user.target"
        found[unit.name] = (_text(unit), [*links, f"{wanted_by}.wants"])
    return found


def dropins() -> dict[str, str]:
    """Path without its leading slash -> text, for NetworkManager where a template has it."""
    return {
        "usr/lib/systemd/system/NetworkManager.service.d/30_qubes.conf": (
            "[Unit]\nConditionPathExists=/run/qubes-service/network-manager\n"
            f"After=qubes-bind-dirs.service qubes-sysinit.service {_uplink()}\n"
            "[Service]\nExecStartPre=/bin/sh /usr/lib/qubes/network-manager-prepare-conf-dir\n"
        ),
        "usr/lib/qubes/network-manager-prepare-conf-dir": _KEEP_CONNECTIONS,
        "usr/lib/NetworkManager/conf.d/30-qubes.conf": (
            "[main]\nrc-manager=file\ndns=default\nplugins=keyfile\n"
            "[keyfile]\nunmanaged-devices=mac:fe:ff:ff:ff:ff:ff\n"
        ),
    }


def _uplink() -> str:
    return f"qubes-network-uplink@{UPLINK}.service"


def _text(unit: Unit) -> str:
    relations = {
        "After": unit.after,
        "Before": unit.before,
        "Requires": unit.requires,
        "Wants": _WANTS.get(unit.name, "").split(),
    }
    lines = [f"{key}={' '.join(names)}" for key, names in relations.items() if names]
    lines += [f"ConditionPathExists={path}" for path in unit.conditions]
    lines += [] if unit.default else ["DefaultDependencies=no"]
    plain = f"Type=oneshot\nRemainAfterExit=yes\nExecStart={_PROGRAM} start {unit.name}\n"
    if unit.name == _uplink():
        plain += f"ExecStop={_PROGRAM} stop {unit.name}\n"
    return "\n".join(["[Unit]", *lines, "[Service]", _TYPES.get(unit.name, plain)])


def _attach(agent: "Agent", qube: "Qube") -> None:
    """Xen connects the clients that run: their devices are there, and dom0 has said whose."""
    for vif in sorted(path.name for path in Path("/sys/class/net").glob("vif*")):
        addresses = qube.qubesdb[f"/lab/{vif}"].split()
        agent.vif(qube, vif, addresses, "online")


def _nothing() -> None:
    """What the machine does here by itself."""
