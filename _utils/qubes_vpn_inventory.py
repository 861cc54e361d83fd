# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine as data, for a plan made elsewhere: what the steps look at, and nothing else.

Format, version 1; every list of names below is the whole of what is copied::

    {"format": "qubes-vpn inventory", "version": 1, "release": "4.2" or "4.3",
     "globals": {"default_netvm": name or null...},
     "policy": {file: [line about templates' updates or our services]},
     "qubes": {name: {"class": "AppVM"..., "power": "Halted"...,
                      "properties": {key: {"value": ..., "inherited": bool}},
                      "features": {key: text}, "tags": [text], "firewall": [rule],
                     "half_made": {"uuid": text, "written": [volume]},
                     "bypass": uuid}},
     "written": {name: {key: value}},
     "taken": when, by dom0's clock, as 2026-01-31T12:00:00+01:00,
     "more": [fact]}

``half_made``: of a template that a note in dom0 says is being made; which of its volumes hold
anything.  ``bypass``: of a disposable that a note in dom0 lets past the VPN for a while.
``written`` is what earlier runs wrote last, from which one sees what was changed by
hand.  ``more``: facts that the first inventories of this version did not tell; what is named there
and is not at a qube is not set.  Keys and values are as a plan's ``changes`` have them; dom0's are
the machine's.

No free text of the user's is in it but the comments of firewall rules, and these are left out when
they look like a secret.
"""

import datetime
import re

import qubes_vpn_passing
import qubes_vpn_updates
from qubes_vpn_problem import without_secret

FORMAT, VERSION = "qubes-vpn inventory", 1
GLOBALS = (
    "default_netvm",
    "default_template",
    "default_dispvm",
    "management_dispvm",
    "updatevm",
    "clockvm",
)
#: Properties by the kind of their values; ``QUBE`` is a qube's name or nothing.
QUBE = "qube"
PROPERTIES = {
    "template": QUBE,
    "label": str,
    "netvm": QUBE,
    "default_dispvm": QUBE,
    "management_dispvm": QUBE,
    "provides_network": bool,
    "autostart": bool,
    "template_for_dispvms": bool,
    "auto_cleanup": bool,
    "is_preload": bool,
    "memory": int,
    "maxmem": int,
    "ip": str,
    "start_time": str,
}
#: Features that the steps look at or set: services, and marks of Qubes' and of ours.
FEATURES = re.compile(
    r"(service\.)?qubes-firewall|supported-service\.qubes-updates-proxy"
    r"|service\.(qubes-vpn(-dns)?|network-manager|clocksync|qubes-updates-proxy|custom-persist)"
    r"|ipv6|updates-available|last-update|last-updates-check|skip-update|os"
    r"|servicevm|internal|deferred-netvm-original|preload-dispvm(-max)?|x-qubes-vpn-[a-zA-Z0-9_.-]*"
)
#: Facts that came later: an inventory without them in ``more`` cannot tell.
MORE = (
    *("ip", "ipv6", "service.custom-persist", "updates-available", "tags of policy"),
    *("policy of services", "update times", "bypass"),
)
#: Beside them: those that the policy for templates' updates names.
TAGS = re.compile(r"anon-(gateway|vm)|whonix-updatevm")
_NAMED_TAG = re.compile(r"@tag:(\S+)")
#: Those by which a half made template is known.
VOLUMES = ("root", "private")
#: Classes without a firewall list: no packets of theirs pass a netvm of this machine.
NO_FIREWALL = ("AdminVM", "RemoteVM")


def take(machine, last):
    """The inventory of a :class:`qubes_vpn_machine.Machine`; reads only.

    last: as :func:`qubes_vpn_words.last_written` gives it.
    """
    app = machine.app
    policy = machine.policy_lines()
    tags = {tag for lines in policy.values() for tag in named_tags(lines)}
    release = "4.3" if "devices_denied" in app.domains["dom0"].property_list() else "4.2"
    return {
        "format": FORMAT,
        "version": VERSION,
        "release": release,
        "globals": {key: _name(getattr(app, key)) for key in GLOBALS},
        "policy": policy,
        "qubes": {vm.name: _qube(machine, vm, tags) for vm in app.domains},
        "written": _written(last),
        "taken": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "more": [*MORE],
    }


def value(qube, key):
    """The value of a qube's property; None where it has no such property."""
    return qube["properties"].get(key, {}).get("value")


def runs(qube):
    """Whether a qube was on, paused ones too."""
    return qube["power"] not in ("Halted", "NA")


def way(qubes, name):
    """Names from *name* to the last netvm, as far as *qubes* has them."""
    names = []
    while name in qubes and name not in names:
        names.append(name)
        name = value(qubes[name], "netvm")
    return names


def bypasses(inventory):
    """``{name: words}`` of the disposables that may go past the VPN for a while: until when.

    Of an inventory that does not say which ones they are, every disposable of a noted name.
    """
    qubes = inventory["qubes"]
    noted = qubes["dom0"]["features"] if "dom0" in qubes else {}
    names = {key.removeprefix(qubes_vpn_passing.NOTE) for key in noted} & {*qubes}
    if "bypass" in inventory.get("more", ()):
        names = {name for name in names if "bypass" in qubes[name]}
    taken = inventory.get("taken")
    zone = taken and datetime.datetime.fromisoformat(taken).tzinfo
    ends = {name: noted.get(f"{qubes_vpn_passing.NOTE}{name}") for name in sorted(names)}
    return {
        name: qubes_vpn_passing.words(qubes_vpn_passing.until(note), zone)
        for name, note in ends.items()
        if note is not None and qubes[name]["class"] == "DispVM"
    }


def named_tags(lines):
    """The tags by which *lines* of policy tell qubes apart, beyond those in every inventory."""
    found = {tag for line in lines for tag in _NAMED_TAG.findall(line.partition("#")[0])}
    return {tag for tag in found if not TAGS.fullmatch(tag)}


def _qube(machine, vm, tags):
    vm.property_is_default("label")  # reads all properties at once, and so their names
    keys = [key for key in PROPERTIES if key in vm.property_list()]
    features = [key for key in vm.features if FEATURES.fullmatch(key)]
    if qubes_vpn_updates.CHECKED in features and "os" in features:
        features.remove("os")  # a call for each, and it only says why nobody looks for updates
    found = {
        "class": vm.klass,
        "power": vm.get_power_state(),
        "properties": {
            key: {"value": machine.value(vm.name, key), "inherited": machine.inherits(vm.name, key)}
            for key in keys
        },
        "features": {key: vm.features[key] for key in features},
        "tags": sorted(tag for tag in vm.tags if tag in tags or TAGS.fullmatch(tag)),
    }
    if vm.klass not in NO_FIREWALL:
        found["firewall"] = [without_secret(rule) for rule in machine.rules(vm.name)]
    if vm.klass == "TemplateVM" and vm.name in machine.unfinished():
        written = [volume for volume in VOLUMES if machine.written(vm.name, volume)]
        found["half_made"] = {"uuid": machine.uuid(vm.name), "written": written}
    if vm.name in machine.bypasses() and machine.is_bypass(vm.name):
        found["bypass"] = machine.uuid(vm.name)
    return found


def _written(last):
    found = {}
    for (name, key), value in last.items():
        known = key in GLOBALS if name == "dom0" else key in PROPERTIES or key == "firewall"
        if known or FEATURES.fullmatch(key):
            found.setdefault(name, {})[key] = value
    return found


def _name(vm):
    return None if vm is None else str(vm)
